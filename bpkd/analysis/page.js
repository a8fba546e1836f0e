"use strict";

// Tables: a header's button sorts ascending, then descending, then as written.

const NOTHING = /^\s*(?:nan|n\/?a|none|[-–—]+)?\s*$/i;
const NUMBER = /^\s*[<>≤≥≈~]?\s*([-+−]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?|\.\d+|inf(?:inity)?\b)/i;

/** The number that a cell begins with ("57.88 ± 1.2" is 57.88), or null. */
function leadingNumber(text) {
  const found = NUMBER.exec(text);
  if (!found) return null;
  const size = /inf/i.test(found[2]) ? Infinity : Number(found[2].replaceAll(",", ""));
  return found[1] === "-" || found[1] === "−" ? -size : size;
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const written = [...body.rows];
  const texts = heads.map((_, i) => written.map((row) => row.cells[i].textContent));
  heads.forEach((head, i) => {
    const full = texts[i].filter((text) => !NOTHING.test(text));
    const numeric = full.length > 0 && full.every((text) => leadingNumber(text) !== null);
    if (numeric) [head, ...written.map((row) => row.cells[i])].forEach((cell) => cell.classList.add("number"));
    const before = numeric
      ? (a, b) => Math.sign(leadingNumber(a) - leadingNumber(b)) || 0 // inf - inf is nan
      : (a, b) => a.localeCompare(b, "en", { numeric: true });
    head.firstElementChild.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
      const state = next === undefined ? "ascending" : next;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (state) head.setAttribute("aria-sort", state);
      body.append(...(state ? sorted(written, texts[i], before, state === "descending" ? -1 : 1) : written));
    });
  });
}

/** Stable in both directions; cells without a value come last in both. */
function sorted(rows, texts, before, direction) {
  const order = rows.map((_, k) => k);
  order.sort((a, b) => {
    const [x, y] = [NOTHING.test(texts[a]), NOTHING.test(texts[b])];
    return x || y ? x - y : direction * before(texts[a], texts[b]);
  });
  return order.map((k) => rows[k]);
}

// Pictures: two layers above each other, the upper one clipped at the divider.

function makeSlider(root, data) {
  const pictures = data.map((picture) => ({ ...picture, layers: new Map(picture.layers) }));
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const [view, range, pick] = [part("view"), part("range"), part("picture")];
  const sides = ["left", "right"].map((side) => ({
    select: part(`${side}-select`), image: part(`${side}-image`), name: part(`${side}-name`),
  }));

  function move(percent) {
    const at = Math.min(100, Math.max(0, percent));
    view.style.setProperty("--at", `${at}%`);
    range.value = at;
    const [left, right] = sides.map((side) => side.select.value);
    range.setAttribute("aria-valuetext", `${left} on the left ${Math.round(at)} %, ${right} on the right`);
  }

  function show() {
    const picture = pictures[pick.value];
    for (const side of sides) {
      side.image.src = picture.layers.get(side.select.value);
      side.image.alt = `${picture.name}: ${side.select.value}`;
      side.name.textContent = side.select.value;
    }
    const { width, height } = picture;
    // Small pictures are magnified by a whole factor, as far as a screen shows them in one piece.
    const factor = Math.max(1, Math.floor(Math.min(960 / width, 600 / height)));
    view.style.maxWidth = view.nextElementSibling.style.maxWidth = `${factor * width}px`;
    view.style.aspectRatio = `${width} / ${height}`;
    view.classList.toggle("magnified", view.clientWidth >= width);
    move(parseFloat(view.style.getPropertyValue("--at")));
  }

  /** Offers the picture's layers; what was chosen stays chosen where the picture has it. */
  function offer() {
    const labels = [...pictures[pick.value].layers.keys()];
    sides.forEach(({ select }, i) => {
      const wanted = labels.includes(select.value) ? select.value : labels[i === 0 ? 0 : labels.length - 1];
      select.replaceChildren(...labels.map((label) => new Option(label, label)));
      select.value = wanted;
    });
    show();
  }

  const follow = (event) => {
    const box = view.getBoundingClientRect();
    move((100 * (event.clientX - box.left)) / box.width);
  };
  view.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    view.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true });
    follow(event);
  });
  view.addEventListener("pointermove", (event) => view.hasPointerCapture(event.pointerId) && follow(event));
  range.addEventListener("input", () => move(range.valueAsNumber));
  pick.addEventListener("change", offer);
  sides.forEach(({ select }) => select.addEventListener("change", show));
  part("swap").addEventListener("click", () => {
    const [left, right] = sides.map((side) => side.select);
    [left.value, right.value] = [right.value, left.value];
    show();
  });
  new ResizeObserver(() => view.classList.toggle("magnified", view.clientWidth >= pictures[pick.value].width)).observe(view);

  pick.replaceChildren(...pictures.map((picture, i) => new Option(picture.name, i)));
  view.style.setProperty("--at", "50%");
  offer();
  sides.forEach(({ select }) => {
    const start = select.dataset.start;
    if (start) select.value = start;
  });
  show();
}

document.querySelectorAll("table").forEach(makeSortable);
const slider = document.getElementById("slider");
if (slider) makeSlider(slider, JSON.parse(document.getElementById("pictures").textContent));

// Printed pages show folded tables too.
const folded = [...document.querySelectorAll("details")];
let open = [];
window.addEventListener("beforeprint", () => {
  open = folded.filter((one) => one.open);
  folded.forEach((one) => { one.open = true; });
});
window.addEventListener("afterprint", () => folded.forEach((one) => { one.open = open.includes(one); }));
