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

// The wipe: by the slider, which has the keys, or by the pointer on the picture.
const wipe = document.getElementById("wipe");
const wipeAt = document.getElementById("wipe-at");
if (wipe) {
  const show = () => wipe.style.setProperty("--at", `${wipeAt.value}%`);
  const follow = (event) => {
    const box = wipe.getBoundingClientRect();
    wipeAt.value = Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width));
    show();
  };
  wipeAt.addEventListener("input", show);
  wipe.addEventListener("dragstart", (event) => event.preventDefault());
  wipe.addEventListener("pointerdown", (event) => {
    wipe.setPointerCapture(event.pointerId);
    follow(event);
  });
  wipe.addEventListener("pointermove", (event) => {
    if (event.buttons) follow(event);
  });
  show();
}

// The place of the cut: the pictures are asked for again, at most one of each at a time.
const place = document.getElementById("place");
if (place) {
  const pictures = [...document.querySelectorAll("img[data-picture]")];
  const load = (image) => {
    const wanted = `${image.dataset.picture}${place.value}?look=${encodeURIComponent(image.dataset.look)}`;
    if (image.dataset.loading || image.getAttribute("src") === wanted) return;
    image.dataset.loading = "yes";
    image.src = wanted;
  };
  for (const image of pictures) {
    for (const ending of ["load", "error"]) {
      image.addEventListener(ending, () => {
        delete image.dataset.loading;
        if (ending === "load") load(image);
      });
    }
  }
  place.addEventListener("input", () => pictures.forEach(load));
}
