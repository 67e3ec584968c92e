"use strict";
// Answers before and after. Model output is only ever set as text, never as markup.
function expungeAnswers(data) {
  const list = document.getElementById("examples");
  if (!list) return;
  const PAGE = 20;
  const field = (id) => document.getElementById(id);
  const [find, set, run, order, more, count] = ["find", "set", "run", "order", "more", "count"].map(field);
  const runs = data.runs.map((entry, at) => ({ name: entry.name, at: String(at) }));
  const all = data.examples.map((example) => {
    const texts = [example.prompt, example.expected];
    for (const reply of Object.values(example.controls).concat(Object.values(example.erased))) texts.push(reply.text);
    return { example, text: texts.join("\n").toLowerCase() };
  });
  let found = [], shown = 0, words = null;

  const element = (name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  function marked(node, text) {
    if (!words) { node.textContent = text; return node; }
    let last = 0;
    for (const match of text.matchAll(words)) {
      node.append(text.slice(last, match.index), element("mark", "", match[0]));
      last = match.index + match[0].length;
    }
    node.append(text.slice(last));
    return node;
  }

  const NAMES = {
    probability: "p", rouge: "ROUGE-L", truth_ratio: "truth ratio", exact_number: "right number", pass_at_1: "pass@1",
    exact_span: "exact span", contained_span: "contained span", token_f1: "F1", top_option: "top option",
  };
  function numbers(scores) {
    const parts = [];
    for (const [key, name] of Object.entries(NAMES)) {
      const value = scores[key];
      if (value === undefined) continue;
      const text = value === 0 ? "0" : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e4 ? value.toExponential(1) : value.toPrecision(3);
      parts.push(name + " " + text);
    }
    return parts.join(" · ");
  }

  function reply(name, icon, text, scores, ended) {
    const row = element("div");
    const term = element("dt");
    term.append(icon, name);
    const body = element("dd", "reply");
    body.dir = "auto";
    if (text === "") { body.className = "reply empty"; body.textContent = "(nothing)"; } else marked(body, text);
    row.append(term, body, element("dd", "nums", [ended, scores ? numbers(scores) : ""].filter(Boolean).join(" · ")));
    return row;
  }

  const glyph = (kind) => {
    const node = element("i", "glyph " + kind);
    node.setAttribute("aria-hidden", "true");
    return node;
  };
  const swatch = (at) => {
    const node = element("i", "swatch c" + (at % 7));
    node.setAttribute("aria-hidden", "true");
    return node;
  };

  function card(example) {
    const item = element("li");
    item.append(element("p", "where", [example.set, "row " + example.index, example.source].filter(Boolean).join(" · ")));
    const question = marked(element("p", "question"), example.prompt || "(a document: no prompt)");
    question.dir = "auto";
    const replies = element("dl", "replies");
    replies.append(reply("Expected", "", example.expected, null));
    const controls = example.controls;
    if (controls.target) replies.append(reply("Target", glyph("target"), controls.target.text, controls.target.scores, controls.target.ended));
    for (const { name, at } of runs) {
      const answer = example.erased[at];
      if (answer && (!chosen() || chosen() === at)) replies.append(reply(name, swatch(Number(at)), answer.text, answer.scores, answer.ended));
    }
    if (controls.retrained) replies.append(reply("Retrained", glyph("retrained"), controls.retrained.text, controls.retrained.scores, controls.retrained.ended));
    item.append(question, replies);
    return item;
  }

  const chosen = () => (run ? run.value : "");
  const known = (example) => Math.max(-1, ...Object.entries(example.erased)
    .filter(([at]) => !chosen() || at === chosen()).map(([, answer]) => answer.scores.probability ?? -1));
  const changed = (example) => Math.max(-2, ...Object.entries(example.erased)
    .filter(([at]) => !chosen() || at === chosen())
    .map(([, answer]) => Math.abs((example.controls.target?.scores.probability ?? NaN) - answer.scores.probability))
    .filter((value) => !Number.isNaN(value)));

  function show() {
    const next = found.slice(shown, shown + PAGE);
    const fragment = document.createDocumentFragment();
    next.forEach(({ example }) => fragment.append(card(example)));
    list.append(fragment);
    shown += next.length;
    more.hidden = shown >= found.length;
    const total = all.length.toLocaleString("en");
    count.textContent = found.length === 0
      ? "No row matches."
      : `${shown.toLocaleString("en")} of ${found.length.toLocaleString("en")} rows shown` + (found.length < all.length ? ` (${total} in all)` : "");
  }

  function filter() {
    const terms = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    words = terms.length ? new RegExp(terms.map((t) => t.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "giu") : null;
    found = all.filter(({ example, text }) =>
      (!set.value || example.set === set.value) &&
      (!chosen() || chosen() in example.erased) &&
      terms.every((term) => text.includes(term)));
    const rank = { known, changed }[order.value];
    if (rank) {
      const keyed = found.map((entry) => [rank(entry.example), entry]);
      found = keyed.sort((a, b) => b[0] - a[0]).map(([, entry]) => entry);
    }
    shown = 0;
    list.replaceChildren();
    show();
  }

  let timer = 0;
  find.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 120); });
  field("filters").addEventListener("change", filter);
  field("filters").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  more.addEventListener("click", () => {
    const first = shown;
    show();
    const item = list.children[first];
    if (item) { item.tabIndex = -1; item.focus({ preventScroll: true }); }
  });
  filter();
}
