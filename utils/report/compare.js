// Comparison of two rows ("Is B better than A?"): paired bootstrap over the images that both predicted out of fold.

function decoded(text) {
  const found = new Int16Array(text.length / 2);
  for (let at = 0; at < found.length; at += 1) {
    const code = text.slice(2 * at, 2 * at + 2);
    found[at] = code === "--" ? -1 : parseInt(code, 36);
  }
  return found;
}

// Deterministic random numbers in [0, 1): a golden-ratio sequence, mixed with the finalizer of MurmurHash3.
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 16)) >>> 0) / 4294967296;
  };
}

function bootstrap(differences, resamples = 2000) {
  const next = generator(4545);
  const means = new Float64Array(resamples);
  const size = differences.length;
  for (let turn = 0; turn < resamples; turn += 1) {
    let sum = 0;
    for (let draw = 0; draw < size; draw += 1) sum += differences[Math.floor(next() * size)];
    means[turn] = sum / size / 1000;
  }
  means.sort();
  const at = (share) => {
    const place = share * (resamples - 1);
    const below = Math.floor(place);
    return means[below] + (place - below) * (means[Math.min(below + 1, resamples - 1)] - means[below]);
  };
  return [at(0.025), at(0.975)];
}

const signed = (value) => {
  const text = Math.abs(value).toFixed(3);
  return Number(text) === 0 ? text : `${value < 0 ? "\u2212" : "+"}${text}`;
};

// The scores of objects and labels are stored by optimize_threshold.py; those of masks need nothing but the mask files.
const advice = ({ measure }) => {
  if (measure === "iout" || measure === "auc") return "";
  return `; run optimize_threshold.py --objective ${measure === "objects" ? "objects" : "labels"} on its validation files`;
};

function reasonAgainst(a, b) {
  if (a === b) return "choose two different rows.";
  for (const one of [a, b]) if (!one.scores) return `${one.name} has no scores of individual images${advice(one)}.`;
  if (a.data === null || b.data === null) return "without the packed images of both, it is unknown whether the images are the same.";
  if (a.data !== b.data) return "they were trained on different images.";
  if (a.measure !== b.measure) return `one is ranked by ${a.measure}, the other by ${b.measure}.`;
  return "";
}

function compare() {
  const [a, b] = [groups[find("a").value], groups[find("b").value]];
  const verdict = find("verdict");
  const reason = reasonAgainst(a, b);
  const [ofA, ofB] = reason ? [[], []] : [decoded(a.scores), decoded(b.scores)];
  const differences = [];
  ofA.forEach((score, at) => score >= 0 && ofB[at] >= 0 && differences.push(ofB[at] - score));
  Object.assign(verdict.dataset, { n: differences.length, mean: "", low: "", high: "" });
  if (reason || !differences.length) {
    verdict.textContent = `They cannot be compared: ${reason || "no image was predicted by both."}`;
    return;
  }
  const mean = differences.reduce((sum, one) => sum + one, 0) / differences.length / 1000;
  const [low, high] = bootstrap(differences);
  Object.assign(verdict.dataset, { mean, low, high });
  const known = low > 0 ? "Yes, B is better" : high < 0 ? "No, B is worse" : "No significant difference";
  const sample = ofA.length < a.of ? ` sampled from ${a.of}` : "";
  verdict.textContent =
    `${known}: ${signed(mean)}, 95 % interval ${signed(low)} to ${signed(high)}, ` +
    `over ${differences.length} image${differences.length === 1 ? "" : "s"}${sample}.`;
}

function offerPairs() {
  const usable = groups.map((group, at) => (group.scores ? at : -1)).filter((at) => at >= 0);
  if (usable.length < 2) return;
  for (const id of ["a", "b"]) {
    groups.forEach((group, at) => find(id).add(new Option(group.name, at)));
    find(id).addEventListener("change", compare);
  }
  find("b").value = usable[0];
  find("a").value = usable.find((at) => !reasonAgainst(groups[at], groups[usable[0]])) ?? usable[1];
  document.querySelector(".compare").hidden = false;
}
