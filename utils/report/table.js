// The table: drawing, sorting, filtering, expanding groups.
const find = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const groups = JSON.parse(find("data").textContent).groups;
const table = find("runs");
const entries = all("tbody", table);
const sorters = all(".sort", table);
const box = document.querySelector(".scroll");
const collator = new Intl.Collator("en", { numeric: true });
const seen = entries.map((entry, at) => `${entry.textContent} ${groups[at].text}`.toLowerCase());
const sorting = { key: "", direction: "none" };

// ---- draw rows as they come into sight, because laying out hundreds of rows takes a browser a tenth of a second ----
const STEP = 40;
const drawing = { count: STEP, order: entries };

function draw() {
  drawing.order.filter(isShown).forEach((entry, at) => entry.classList.toggle("later", at >= drawing.count));
}

const atEnd = new IntersectionObserver(
  ([end]) => {
    if (!end.isIntersecting || drawing.count >= entries.length) return;
    drawing.count += STEP;
    draw();
    atEnd.unobserve(end.target); // observed again, the end reports whether it is still in sight
    atEnd.observe(end.target);
  },
  { root: box, rootMargin: "0px 0px 400px 0px" },
);
atEnd.observe(find("end"));

// ---- sort ----
function compareValues(one, other) {
  const [a, b] = [Number(one), Number(other)];
  return one !== "" && other !== "" && !Number.isNaN(a) && !Number.isNaN(b) ? a - b : collator.compare(one, other);
}

function sort(key, direction) {
  const column = sorters.findIndex((button) => button.dataset.key === key);
  if (column < 0) return; // a setting that no longer differs between runs has no column
  Object.assign(sorting, { key, direction });
  sorters.forEach((button) => button.parentElement.setAttribute("aria-sort", "none"));
  sorters[column].parentElement.setAttribute("aria-sort", direction);
  const sign = direction === "descending" ? -1 : 1;
  const valued = entries.map((entry, at) => ({ entry, at, value: entry.rows[0].cells[column].dataset.value }));
  if (direction !== "none") {
    valued.sort((one, other) => {
      const [lacksOne, lacksOther] = [one, other].map(({ value }) => value === undefined || value === "nan");
      if (lacksOne || lacksOther) return lacksOne - lacksOther || one.at - other.at;
      return sign * compareValues(one.value, other.value) || one.at - other.at;
    });
  }
  drawing.order = valued.map(({ entry }) => entry);
  draw();
  table.append(...drawing.order);
}

sorters.forEach((button) => {
  button.addEventListener("click", () => {
    const ways = "best" in button.dataset ? ["descending", "ascending"] : ["ascending", "descending"];
    const now = sorting.key === button.dataset.key ? sorting.direction : "none";
    drawing.count = STEP;
    box.scrollTop = 0;
    sort(button.dataset.key, { none: ways[0], [ways[0]]: ways[1], [ways[1]]: "none" }[now]);
    const how = sorting.direction === "none" ? "in the original order" : `sorted by ${button.textContent}, ${sorting.direction}`;
    tellShown(`, ${how}`);
  });
});

// ---- filter ----
const isShown = (entry) => !entry.hidden;

function tellShown(more = "") {
  find("shown").textContent = `${entries.filter(isShown).length} of ${entries.length} rows shown${more}`;
}

function filter() {
  const words = find("filter").value.toLowerCase().split(/\s+/);
  const state = find("state").value;
  entries.forEach((entry, at) => {
    const fits = words.every((word) => seen[at].includes(word));
    entry.hidden = !fits || (state !== "" && !entry.dataset.states.split(" ").includes(state));
  });
  draw();
  tellShown();
}

find("filter").addEventListener("input", filter);
find("state").addEventListener("change", filter);
document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());

// ---- expand ----
function unfold(entry, open) {
  entry.classList.toggle("open", open);
  entry.querySelector(".unfold")?.setAttribute("aria-expanded", String(open));
}

entries.forEach((entry) => {
  entry.querySelector(".unfold")?.addEventListener("click", () => unfold(entry, !entry.classList.contains("open")));
});
