// Filters the before/after list. Without it the page shows every answer.
(() => {
  "use strict";
  const list = document.getElementById("answer-list");
  if (!list) return;
  const find = (id) => document.getElementById(id);
  const items = Array.from(list.children);
  const texts = items.map((item) =>
    Array.from(item.querySelectorAll(".said"), (part) => part.textContent).join("\n").toLowerCase());
  const STEP = 60;
  let limit = STEP;
  function show() {
    const side = find("side").value, label = find("label").value;
    const wanted = find("search").value.trim().toLowerCase();
    let found = 0;
    items.forEach((item, at) => {
      const fits = (!side || item.dataset.side === side)
        && (!label || (label === "changed" ? item.dataset.same === "no" : item.dataset.label === label))
        && (!wanted || texts[at].includes(wanted));
      item.hidden = !fits || found >= limit;
      if (fits) found += 1;
    });
    const left = found - Math.min(found, limit);
    find("found").textContent = found === 0 ? "No answer fits."
      : `${Math.min(found, limit)} of ${found} shown`;
    find("more").hidden = left === 0;
    find("more").textContent = `Show ${Math.min(left, STEP)} more`;
  }
  for (const id of ["side", "label", "search"]) {
    find(id).addEventListener("input", () => { limit = STEP; show(); });
  }
  find("more").addEventListener("click", () => {
    const first = items.filter((item) => !item.hidden).length;
    limit += STEP;
    show();
    const next = items.filter((item) => !item.hidden)[first];
    if (next) next.focus({ preventScroll: true });
  });
  find("filters").hidden = false;
  show();
})();
