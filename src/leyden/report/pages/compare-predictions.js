/* Two runs side by side on the rows that both have; every text goes in as text. */
(() => {
  const data = leyden.read("compare-predictions-data"), make = leyden.make, byId = (id) => document.getElementById(id);
  const first = byId("pair-a"), second = byId("pair-b"), order = byId("pair-order"), search = byId("pair-search");
  const differ = byId("pair-differ"), said = byId("pair-said"), place = byId("pair-rows"), more = byId("pair-more");
  const STEP = 20;
  let shown = STEP;

  function text(value, runs) {
    if (value === null) return make("div", { class: "text empty" }, "nothing");
    if (!runs) return make("div", { class: "text" }, value);
    return make("div", { class: "text" }, ...runs.map(([words, changed]) => (changed ? make("mark", {}, words) : words)));
  }

  const shownNumber = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));
  const scoreName = (a, b) => a.scores.find((name) => b.scores.includes(name));
  const scoreOf = (run, cell, name) => cell[1 + run.scores.indexOf(name)];

  function answer(run, cell, runs, name, other) {
    const block = make("div", { class: "answer" }, make("dl", {}, make("dt", {}, make("bdi", {}, run.name))));
    const list = block.firstChild;
    list.append(make("dd", {}, text(cell[0], runs)));
    const scores = run.scores.map((score, index) => `${score.replace("score_", "")} ${shownNumber(cell[index + 1])}`);
    if (scores.length) {
      const line = make("p", { class: "scores" }, scores.join(" · "));
      const mine = scoreOf(run, cell, name), way = data.better[name];
      if (way && mine !== null && other !== null && mine !== other && (mine < other) === (way === "min")) {
        line.append(" ", make("span", { class: "tag good" }, "better"));
      }
      list.append(make("dd", {}, line));
    }
    return block;
  }

  function rowsOf(a, b) {
    const name = scoreName(a, b), way = data.better[name] === "max" ? -1 : 1, found = [];
    data.rows.forEach((row, index) => {
      const left = a.cells[index], right = b.cells[index];
      if (!left || !right) return;
      const x = name ? scoreOf(a, left, name) : null, y = name ? scoreOf(b, right, name) : null;
      found.push({ row, left, right, x, y, gain: x === null || y === null ? 0 : way * (y - x) });
    });
    const wanted = search.value.trim().toLowerCase();
    const kept = found.filter(({ row, left, right }) => {
      if (differ.checked && left[0] === right[0] && left.every((value, index) => value === right[index])) return false;
      return !wanted || [row.name, row.prompt, row.target, left[0], right[0]].some((one) => one?.toLowerCase().includes(wanted));
    });
    const by = { apart: (one) => -Math.abs(one.gain), a: (one) => -one.gain, b: (one) => one.gain }[order.value];
    return { name, kept: by ? kept.sort((one, two) => by(one) - by(two)) : kept, common: found.length };
  }

  function draw() {
    const a = data.runs[first.value], b = data.runs[second.value];
    const { name, kept, common } = rowsOf(a, b);
    const [x, y] = [data.set[first.value], data.set[second.value]];
    const both = data.shared ? data.shared[x][y] : null;
    const rows = (count) => (count === 1 ? "1 row" : `${count} rows`);
    const alone = both === null ? "" : `${rows(data.sizes[x] - both)} only in the first and ${rows(data.sizes[y] - both)} only in the second`;
    const whole = both === null ? "" : ` Both runs have ${rows(both)} in common; ${alone} have no match.`;
    said.textContent = `${Math.min(shown, kept.length)} of ${kept.length} rows are shown.${whole} This page has ${common} of them.`;
    place.replaceChildren(...kept.slice(0, shown).map(({ row, left, right, x: mine, y: theirs }) => {
      const parts = left[0] === null || right[0] === null ? null : leyden.differences(left[0], right[0]);
      const asked = make("dl", { class: "asked" }, make("dt", {}, "Prompt"), make("dd", {}, text(row.prompt)));
      if (row.target !== null) asked.append(make("dt", {}, "Target"), make("dd", {}, text(row.target)));
      return make("article", { class: "row-pair" },
        make("h3", {}, make("bdi", {}, row.name ?? "")), asked,
        make("div", { class: "answers" }, answer(a, left, parts?.from, name, theirs), answer(b, right, parts?.to, name, mine)),
        ...(parts?.said ? [make("p", { class: "told" }, parts.said)] : []));
    }));
    place.querySelectorAll(".text").forEach((one) => {  // what scrolls has to be reached by keyboard
      if (one.scrollHeight > one.clientHeight + 1) {
        one.tabIndex = 0;
        one.setAttribute("role", "region");
        one.setAttribute("aria-label", "Long text");
      }
    });
    more.hidden = kept.length <= shown;
  }

  const fresh = () => { shown = STEP; draw(); };
  [first, second, order, differ].forEach((one) => one.addEventListener("change", fresh));
  search.addEventListener("input", fresh);
  more.addEventListener("click", () => { shown += STEP; draw(); });
  draw();
})();
