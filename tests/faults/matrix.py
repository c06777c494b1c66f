"""Which tests play which fault of docs/protocol.md#faults; printed row by row after `make test-faults`.

A row names whole files, or single tests as pytest does. Whatever is named here gets the mark ``faults``. The rows are
those of the page, in its order, and each has tests: ``test_matrix.py`` compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

MATRIX: Mapping[str, tuple[str, ...]] = {
    "`kill -9` before the rename, the commit, the answer, or after it": (
        "tests/receive/test_kill.py", "tests/faults/test_kill.py", "tests/e2e/test_crashes.py",
        "tests/ledger/test_kill.py",
    ),
    "the power fails": (
        "tests/receive/test_scp.py::test_name_and_bytes_of_a_file_are_flushed_before_its_row_is_committed",
        "tests/test_durable.py::test_the_file_is_flushed_before_it_gets_its_name_and_the_folder_after",
        "tests/ledger/test_store.py::test_the_file_is_in_wal_mode_and_each_writer_as_durable_as_it_must_be",
    ),
    "full disk, quota, too many open files": (
        "tests/e2e/test_full_disk.py",
        "tests/receive/test_scp.py::test_a_write_that_fails_is_answered_by_its_cause_and_leaves_no_file",
        "tests/receive/test_scp.py::test_below_the_mark_nothing_is_taken",
        "tests/ledger/test_store.py::test_a_full_disk_writes_nothing_and_says_so",
    ),
    "read-only disk, lost permission": (
        "tests/receive/test_scp.py::test_a_write_that_fails_is_answered_by_its_cause_and_leaves_no_file",
        "tests/service/test_service.py::test_a_data_folder_that_cannot_be_written_to_is_a_storage_error",
    ),
    "locked ledger": (
        "tests/receive/test_scp.py::test_a_busy_ledger_is_out_of_resources",
        "tests/ledger/test_store.py::test_another_process_that_keeps_the_ledger_locked_is_reported",
    ),
    "damaged ledger": (
        "tests/ledger/test_store.py::test_a_damaged_page_is_found_before_a_service_begins",
        "tests/test_sweep.py::test_a_large_ledger_that_is_damaged_ends_the_service_and_nothing_is_set_aside",
    ),
    "an archived file was altered or is missing": (
        "tests/work/test_supervisor.py::test_an_altered_file_goes_to_quarantine_and_the_job_is_held_with_both_digests",
        "tests/work/test_supervisor.py::test_a_missing_file_holds_the_job_and_names_the_file",
    ),
    "data folder or ledger lost": ("tests/faults/test_restore_drill.py",),
    "abort or lost link in the middle of a series": (
        "tests/receive/test_scp.py::test_an_abort_or_a_lost_link_marks_the_series",
        "tests/settle/test_quiet.py::test_after_a_broken_association_the_sender_gets_longer_to_come_again",
    ),
    "silent, slow or hostile clients": (
        "tests/receive/test_listener.py", "tests/dimse/test_commands.py", "tests/dimse/test_messages.py",
        "tests/dimse/test_link_machine.py",
        "tests/receive/test_mutations.py",
        "tests/field/test_peers_that_never_finish.py",
    ),
    "handshakes of TLS that stand still": ("tests/receive/test_tls.py",),
    "wrong AE title, network or certificate of a sender": (
        "tests/receive/test_admission.py",
        "tests/receive/test_tls.py::test_another_peer_of_the_same_authority_is_rejected_by_name_and_the_log_holds_no_name",
    ),
    "other bytes under a known UID": (
        "tests/receive/test_scp.py::test_other_bytes_under_the_same_uid_are_set_aside_and_the_first_is_kept",
    ),
    "a UID that is a path, or none": (
        "tests/receive/test_scp.py::test_what_is_no_uid_does_not_match_and_is_set_aside",
        "tests/field/test_uids_that_break_the_rule.py",
    ),
    "damaged headers": ("tests/receive/test_header_walk.py", "tests/imaging/test_headers.py"),
    "restart in a quiet period": (
        "tests/settle/test_quiet.py::test_after_a_restart_the_wait_starts_anew_and_no_more_than_that",
    ),
    "the wall clock is set": (
        "tests/settle/test_quiet.py::test_a_step_of_the_wall_clock_neither_settles_a_series_nor_holds_it_back",
        "tests/test_schedule.py",
        "tests/ledger/test_deliveries.py::test_a_clock_set_back_an_hour_delays_nothing",
    ),
    "the process is stopped for an hour": (
        "tests/ledger/test_jobs.py::test_a_lease_that_ran_out_is_renewed_if_nobody_took_it",
        "tests/test_schedule.py::test_moments_that_passed_unnoticed_are_made_up_for_once",
    ),
    "the child is killed, hangs, or takes too much memory": (
        "tests/work/test_supervisor.py::test_a_job_whose_child_is_killed_goes_back_and_a_new_child_does_it",
        "tests/work/test_supervisor.py::"
        "test_a_child_that_hangs_is_killed_at_the_time_limit_and_the_job_fails_after_three_attempts",
        "tests/work/test_supervisor.py::test_a_child_beyond_the_memory_limit_is_killed_and_the_queue_goes_on",
    ),
    "a worker of the cluster is lost": ("tests/faults/cluster",),
    "a model is altered or missing": (
        "tests/work/test_job.py::test_a_tampered_model_is_refused_with_its_file_and_both_digests",
        "tests/work/test_job.py::test_a_job_whose_model_is_nowhere_is_held_and_not_done_by_another_of_the_name",
    ),
    "the result gate objects, or a voxel is no number": (
        "tests/e2e/test_result_gate.py",
        "tests/test_pipeline.py::test_a_voxel_that_is_no_number_ends_the_derivation_before_a_file_is_written",
    ),
    "a late instance before, during or after the delivery": ("tests/e2e/test_late_instances.py",),
    "the PACS is down or hangs": (
        "tests/push/test_peer_loop.py::test_a_peer_that_is_off_gets_the_series_when_it_comes_back",
        "tests/push/test_dimse_carrier.py::test_a_missing_answer_says_why",
        "tests/push/test_dimse_carrier.py::test_a_name_without_address_is_unresolved",
    ),
    "the PACS rejects the association": (
        "tests/push/test_peer_loop.py::test_a_permanent_rejection_is_held_after_three_tries_never_hot",
        "tests/push/test_peer_loop.py::test_a_rejection_that_ends_lets_the_delivery_through",
    ),
    "the PACS refuses an instance, or warns": (
        "tests/push/test_peer_loop.py::test_a_status_that_settles_the_instance",
        "tests/push/test_peer_loop.py::test_a_peer_without_room_is_left_alone_and_then_gets_the_rest",
        "tests/push/test_peer_loop.py::test_a_processing_failure_is_tried_three_times_and_then_counts_as_refused",
        "tests/push/test_peer_loop.py::test_a_protocol_error_gets_a_second_association_once_and_is_held_then",
    ),
    "the answer is lost after the PACS stored": (
        "tests/push/test_peer_loop.py::"
        "test_an_instance_whose_answer_is_lost_goes_again_with_the_same_bytes_and_counts_once",
    ),
    "commitment comes late, in part, never, twice, or for an unknown request": (
        "tests/push/test_proofs.py", "tests/ledger/test_commitments.py", "tests/ledger/test_commitment_machine.py",
        "tests/e2e/test_commitment.py",
    ),
    "the PACS has the study under another patient": ("tests/push/test_identity.py",),
    "one PACS hangs while another waits": (
        "tests/push/test_peer_loop.py::test_a_hanging_peer_does_not_delay_another",
    ),
    "a certificate expired, or its authority is unknown": (
        "tests/push/test_tls.py", "tests/cli/test_certificates.py",
        "tests/receive/test_tls.py::test_a_certificate_that_does_not_hold_is_refused_by_an_alert_and_the_log_says_why",
    ),
    "a mistake in settings that are read while the service runs": ("tests/test_reload.py",),
    "SIGTERM in any state": (
        "tests/service/test_service.py::test_sigterm_ends_it_with_0_and_ctrl_c_with_130_and_no_worker_is_left",
        "tests/service/test_service.py::test_an_open_association_may_end_while_it_stops",
        "tests/e2e/test_crashes.py::test_sigterm_returns_a_job_that_takes_too_long_without_spending_an_attempt",
    ),
    "a second signal, or a kill": ("tests/service/test_service.py::test_a_second_signal_ends_it_at_once",),
    "a newer ledger": (
        "tests/ledger/test_store.py::test_a_newer_ledger_is_refused_with_both_versions",
        "tests/migrations/test_migrations.py::test_a_newer_ledger_is_not_upgraded",
    ),
    "an upgrade of the ledger breaks off": (
        "tests/migrations/test_migrations.py::test_an_upgrade_that_breaks_off_leaves_the_ledger_as_it_was",
    ),
    "a kill while old or erased images are removed": (
        "tests/faults/test_retention.py", "tests/e2e/test_purge.py", "tests/ledger/test_removals.py",
    ),
    "an operator cancels what is being done": (
        "tests/work/test_endings.py", "tests/push/test_cancelled.py",
    ),
}  # fmt: skip


def is_named(node_id: str, names: Collection[str]) -> bool:
    """Is this test, or its file or folder, among the names? Parameters do not count."""
    test = node_id.partition("[")[0]
    return any(test == name or test.startswith((f"{name}::", f"{name}/")) for name in names)


ALL = frozenset(name for names in MATRIX.values() for name in names)


def lines(outcomes: Mapping[str, str]) -> Iterator[str]:
    """The table; ``outcomes``: passed, failed, error or skipped, by the id of a test."""
    width = max(map(len, MATRIX))
    yield f"{'fault':{width}}  tests  result"
    for fault, names in MATRIX.items():
        found = [outcome for node_id, outcome in outcomes.items() if is_named(node_id, names)]
        bad, skipped = sum(one in ("failed", "error") for one in found), found.count("skipped")
        result = f"{bad} failed" if bad else "not covered" if skipped == len(found) else "passed"
        yield f"{fault:{width}}  {len(found):5}  {result}{f', {skipped} skipped' if skipped and found else ''}"
