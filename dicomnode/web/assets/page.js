"use strict";
// The first page asks for its figures again while somebody looks at it.
const live = document.getElementById("live");
if (live) {
  const lost = document.getElementById("lost");
  const again = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.live, { credentials: "same-origin", redirect: "error" });
      if (!answer.ok) throw new Error("not answered");
      const text = await answer.text();
      const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      live.innerHTML = text;
      if (focused) live.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
  };
  setInterval(again, 5000);
  document.addEventListener("visibilitychange", again);
}
