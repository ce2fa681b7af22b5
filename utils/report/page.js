// Enlarged pictures, navigation between the table and a run, light and dark colours, and reloading of a served page.
// Follows table.js and compare.js in the same module. Without a script, the sections still open by their URL fragment.

// ---- enlarge ----
const large = find("large");

function enlarge(strip) {
  const panels = all("img", strip).map((picture) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = picture.alt.split(" ")[0];
    const copy = picture.cloneNode();
    copy.loading = "eager";
    figure.append(copy, caption);
    return figure;
  });
  large.querySelector(".panels").replaceChildren(...panels);
  find("large-name").textContent = strip.nextElementSibling.textContent;
  large.strip = strip;
  if (!large.open) large.showModal();
}

function neighbour(step) {
  const strips = all(".strip", large.strip.closest(".run"));
  const next = strips[strips.indexOf(large.strip) + step];
  if (next) enlarge(next);
}

document.addEventListener("click", (event) => {
  const strip = event.target.closest(".strip");
  if (strip) enlarge(strip);
  if (event.target === large || event.target.closest(".panels")) large.close();
});
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") neighbour(1);
  if (event.key === "ArrowLeft") neighbour(-1);
});
large.addEventListener("close", () => large.strip.focus());

// ---- from the table to a run and back ----
const title = document.title;
const opened = { by: null, scroll: 0 };
const section = () => (location.hash.length > 1 ? find(location.hash.slice(1)) : null);

table.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (link) Object.assign(opened, { by: link, scroll: scrollY });
});

function arrive() {
  const run = section();
  document.title = run ? `${run.querySelector("h2").firstChild.textContent.trim()}, experiments` : title;
  if (run) {
    run.querySelector("h2").focus({ preventScroll: true });
    scrollTo(0, 0);
  } else if (opened.by) {
    scrollTo(0, opened.scroll);
    opened.by.focus({ preventScroll: true });
  }
}

addEventListener("hashchange", arrive);

// ---- light and dark ----
const root = document.documentElement;
const theme = find("theme");
const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const nameTheme = () => (theme.textContent = isDark() ? "Light" : "Dark");

theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);

// ---- state of the page that survives a reload in this tab ----
const place = `strata ${location.pathname}`;

function remember() {
  const kept = {
    sorting,
    drawn: drawing.count,
    filter: find("filter").value,
    state: find("state").value,
    open: entries.filter((entry) => entry.classList.contains("open")).map(nameOf),
    pair: ["a", "b"].map((id) => groups[find(id).value]?.name),
    theme: root.dataset.theme,
    scroll: scrollY,
    box: [box.scrollLeft, box.scrollTop],
    focus: document.activeElement?.id,
  };
  try {
    sessionStorage.setItem(place, JSON.stringify(kept));
  } catch {
    // without session storage, only the state of the table is lost
  }
}

const nameOf = (entry) => groups[entry.dataset.entry].name;

function recall() {
  let kept = null;
  try {
    kept = JSON.parse(sessionStorage.getItem(place));
  } catch {
    return null;
  }
  if (!kept) return null;
  drawing.count = kept.drawn ?? drawing.count;
  if (kept.theme) root.dataset.theme = kept.theme;
  find("filter").value = kept.filter;
  find("state").value = kept.state;
  if (find("state").selectedIndex < 0) find("state").value = "";
  sort(kept.sorting.key, kept.sorting.direction);
  entries.filter((entry) => kept.open.includes(nameOf(entry))).forEach((entry) => unfold(entry, true));
  ["a", "b"].forEach((id, which) => {
    const at = groups.findIndex((group) => group.name === kept.pair[which]);
    if (at >= 0) find(id).value = at;
  });
  return kept;
}

function recallPlace(kept) {
  box.scrollTo(...kept.box);
  if (kept.focus) find(kept.focus)?.focus({ preventScroll: true });
  if (performance.getEntriesByType("navigation")[0]?.type === "reload") scrollTo(0, kept.scroll);
}

addEventListener("pagehide", remember);

// ---- served page: reload as soon as there is a newer version ----
const served = find("served");

async function refresh() {
  const mine = `"${served.dataset.version}"`;
  let version = mine;
  try {
    const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
    version = answer.ok ? answer.headers.get("ETag") : version;
    if (served.dataset.lost) {
      served.textContent = served.dataset.before;
      delete served.dataset.lost;
    }
  } catch {
    if (!served.dataset.lost) Object.assign(served.dataset, { lost: "yes", before: served.textContent });
    served.textContent = "This page is no longer updated: the server does not respond (report.py --watch).";
  }
  if (version !== mine && !large.open) location.reload();
  else setTimeout(refresh, 3000);
}

// ---- start ----
history.scrollRestoration = "manual"; // otherwise the browser would override our scroll position
offerPairs();
const kept = recall();
filter();
if (!document.querySelector(".compare").hidden) compare();
nameTheme();
theme.hidden = document.querySelector(".filter").hidden = false;
if (section()) arrive();
if (kept) addEventListener("load", () => recallPlace(kept)); // after the browser has scrolled to the URL fragment
if (served) setTimeout(refresh, 3000);
