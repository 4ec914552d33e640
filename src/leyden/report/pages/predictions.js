/* The table of predictions: sorted, searched, paged; a row unfolds into its conversation and what changed in it. */
(() => {
  const data = leyden.read("predictions-data"), browser = document.getElementById("predictions-browser");
  if (!data || !browser) return;
  const { make } = leyden;
  const table = document.getElementById("predictions-table"), head = table.tHead, body = table.tBodies[0];
  const search = document.getElementById("predictions-search"), size = document.getElementById("predictions-size");
  const said = document.getElementById("predictions-said"), pageText = document.getElementById("predictions-page");
  const pager = Object.fromEntries([...browser.querySelectorAll("[data-page]")].map((one) => [one.dataset.page, one]));
  const BEGINNING = 400; /* characters of a cell in the table; the whole is in the details */
  const SHORT = 24;
  const state = { column: null, falling: false, page: 0, rows: [], open: new Set() };
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const count = (value) => value.toLocaleString("en");

  function number(value) {
    if (value === null) return "–";
    if (Number.isInteger(value)) return count(value);
    const far = Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6;
    return far ? value.toExponential(3) : value.toLocaleString("en", { maximumSignificantDigits: 4 });
  }

  /* Text with its direction; runs of it may be marked. */
  function words(text, tag = null, runs = null) {
    const element = make("div", { class: "words", dir: "auto" });
    if (!runs) element.textContent = text;
    else for (const [run, changed] of runs) element.append(changed ? make(tag, {}, run) : run);
    return element;
  }

  const title = (field) => data.fields[field].title;
  const cell = (field, row) => (field === null || field === undefined ? null : data.fields[field].cells[row]);

  function cutNote(field, row) {
    const length = data.fields[field].cut[row];
    if (!length) return [];
    return [make("p", { class: "note" }, `Cut: ${count(data.limit)} of ${count(length)} characters. The whole text is in ${data.file}, row ${count(data.rows[row])}.`)];
  }

  const titled = (title, ...children) => [make("p", { class: "who" }, make("bdi", {}, title)), ...children];
  const text = (field, row) => (cell(field, row) === null ? [] : titled(data.fields[field].title, words(cell(field, row)), ...cutNote(field, row)));

  /* ---- details of a row ---- */
  function turn(who, kind, field, row) {
    const content = cell(field, row);
    return content === null ? [] : [make("div", { class: `turn ${kind}` }, ...titled(who, words(content), ...cutNote(field, row)))];
  }

  function conversation(row) {
    const { system, prompt, answer, shown } = data.conversation, earlier = data.earlier[row] ?? [], found = [];
    if (prompt !== null) {
      const first = earlier.length ? earlier[0] : row;
      if (first !== null) found.push(...turn("System", "system", system, first));
      for (const before of earlier) {
        if (before === null) found.push(make("p", { class: "note" }, `An earlier turn is not in this page; it is in ${data.file}.`));
        else found.push(...turn("User", "user", prompt, before), ...turn("Assistant", "model", answer, before));
      }
      found.push(...turn("User", "user", prompt, row), ...turn(answer === null ? "" : data.fields[answer].title, "model", answer, row));
    }
    if (cell(shown, row) !== null) {
      const fold = make("details", {}, make("summary", {}, data.fields[shown].title), words(cell(shown, row)), ...cutNote(shown, row));
      if (prompt === null) fold.open = true;
      found.push(fold);
    }
    return found.length ? [make("h4", {}, "Conversation"), ...found] : [];
  }

  function comparison(one, row) {
    const from = cell(one.from, row), to = cell(one.to, row);
    if (from === null) return text(one.to, row);
    if (to === null) return [];
    const found = leyden.differences(from, to);
    return [
      make("h4", {}, `${title(one.from)} and ${title(one.to).toLowerCase()}`),
      make("div", { class: "sides" },
        make("div", {}, ...titled(title(one.from), words(from, "del", found.from), ...cutNote(one.from, row))),
        make("div", {}, ...titled(title(one.to), words(to, "ins", found.to), ...cutNote(one.to, row)))),
      ...(found.said ? [make("p", { class: "note" }, found.said)] : []),
    ];
  }

  function values(row) {
    const known = data.values.filter((one) => cell(one.now, row) !== null || cell(one.before, row) !== null);
    if (!known.length) return [];
    const compared = known.some((one) => cell(one.before, row) !== null);
    const titles = ["Number", compared ? "After training" : "Value", ...(compared ? ["Before"] : [])];
    const line = (one) => make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, one.title)),
      make("td", { class: "number" }, number(cell(one.now, row))),
      ...(compared ? [make("td", { class: "number" }, number(cell(one.before, row)))] : []));
    return [
      make("h4", {}, "Numbers"),
      make("table", {},
        make("thead", {}, make("tr", {}, ...titles.map((title, place) => make("th", { scope: "col", ...(place ? { class: "number" } : {}) }, title)))),
        make("tbody", {}, ...known.map(line))),
    ];
  }

  function details(row) {
    const known = data.others.filter((field) => cell(field, row) !== null);
    const others = known.map((field) => make("div", {}, ...text(field, row)));
    return make("div", { class: "details" },
      ...conversation(row),
      ...data.comparisons.flatMap((one) => comparison(one, row)),
      ...data.notes.flatMap((field) => text(field, row)),
      ...values(row),
      ...(others.length ? [make("h4", {}, "Other columns"), make("div", { class: "others" }, ...others)] : []));
  }

  /* ---- the table ---- */
  function shownCell(field, row) {
    const value = cell(field, row), isNumber = data.fields[field].form === "number";
    if (value === null) return make("td", { class: isNumber ? "number none" : "none" }, "–");
    if (isNumber) return make("td", { class: "number" }, number(value));
    const element = words(value.length > BEGINNING ? `${value.slice(0, BEGINNING)}…` : value);
    if (value.length <= SHORT) element.classList.add("short");
    return make("td", {}, element);
  }

  function unfold(line, row) {
    const button = line.querySelector("button"), id = `prediction-${data.rows[row]}`;
    const open = state.open.has(row);
    line.classList.toggle("open", open);
    button.setAttribute("aria-expanded", open);
    if (open) {
      line.after(make("tr", { id }, make("td", { colspan: data.columns.length + 1 }, details(row))));
      button.setAttribute("aria-controls", id);
    } else {
      document.getElementById(id)?.remove();
      button.removeAttribute("aria-controls");
    }
  }

  function lineOf(row) {
    const name = count(data.rows[row]);
    const button = make("button", { type: "button", "aria-expanded": "false", "aria-label": `Row ${name}, all of it` }, name);
    const line = make("tr", {}, make("th", { scope: "row" }, button), ...data.columns.map((field) => shownCell(field, row)));
    button.addEventListener("click", () => {
      state.open[state.open.has(row) ? "delete" : "add"](row);
      unfold(line, row);
    });
    return line;
  }

  function show() {
    const step = Number(size.value), pages = Math.max(1, Math.ceil(state.rows.length / step));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const rows = state.rows.slice(state.page * step, (state.page + 1) * step), lines = rows.map(lineOf);
    body.replaceChildren(...lines);
    lines.forEach((line, place) => state.open.has(rows[place]) && unfold(line, rows[place]));
    pageText.textContent = `Page ${count(state.page + 1)} of ${count(pages)}`;
    pager.first.disabled = pager.previous.disabled = state.page === 0;
    pager.next.disabled = pager.last.disabled = state.page === pages - 1;
  }

  let haystacks = null;
  function matching() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean), every = data.rows.map((_, row) => row);
    if (!wanted.length) return every;
    const texts = data.fields.filter((one) => one.form === "text");
    haystacks ??= every.map((row) => texts.map((one) => one.cells[row] ?? "").join("\n").toLowerCase());
    return every.filter((row) => wanted.every((word) => haystacks[row].includes(word)));
  }

  function sorted(rows) {
    if (state.column === null) return state.falling ? rows.reverse() : rows;
    const { form, cells } = data.fields[state.column], sign = state.falling ? -1 : 1;
    const keys = form === "text" ? cells.map((one) => (one === null ? null : one.slice(0, 200))) : cells;
    const order = form === "text" ? collator.compare : (a, b) => a - b;
    return rows.sort((a, b) => {
      if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null) || a - b;
      return sign * order(keys[a], keys[b]) || a - b;
    });
  }

  function refresh() {
    state.rows = sorted(matching());
    state.page = 0;
    const all = count(data.rows.length);
    said.textContent = search.value.trim() ? `${count(state.rows.length)} of ${all} rows match` : `${all} rows`;
    show();
  }

  const columns = [null, ...data.columns];
  const headers = columns.map((field) => {
    const isNumber = field === null || data.fields[field].form === "number";
    const arrow = make("span", { "aria-hidden": "true" });
    const button = make("button", { type: "button" }, make("bdi", {}, field === null ? "Row" : data.fields[field].title), arrow);
    button.addEventListener("click", () => {
      state.falling = state.column === field && !state.falling;
      state.column = field;
      mark();
      refresh();
    });
    return { field, arrow, cell: make("th", { scope: "col", ...(isNumber && field !== null ? { class: "number" } : {}) }, button) };
  });

  function mark() {
    for (const one of headers) {
      const here = one.field === state.column;
      one.arrow.textContent = here ? (state.falling ? "▼" : "▲") : "";
      if (here) one.cell.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
      else one.cell.removeAttribute("aria-sort");
    }
  }

  head.append(make("tr", {}, ...headers.map((one) => one.cell)));
  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(refresh, 120); });
  size.addEventListener("change", () => { state.page = 0; show(); });
  const moves = { first: () => 0, previous: () => state.page - 1, next: () => state.page + 1, last: () => Infinity };
  for (const [name, move] of Object.entries(moves)) pager[name].addEventListener("click", () => { state.page = move(); show(); });

  /* ---- rows to look at first ---- */
  for (const card of document.querySelectorAll("[data-card]")) {
    for (const to of card.querySelectorAll("[data-from]")) {
      const from = card.querySelector(`[data-field="${to.dataset.from}"]`);
      if (!from) continue;
      const found = leyden.differences(from.textContent, to.textContent);
      from.replaceChildren(...words("", "del", found.from).childNodes);
      to.replaceChildren(...words("", "ins", found.to).childNodes);
      if (found.said) to.after(make("p", { class: "note" }, found.said));
    }
    const button = card.querySelector("[data-open]"), row = data.rows.indexOf(Number(button.dataset.open) + 1);
    button.hidden = false;
    button.addEventListener("click", () => {
      search.value = "";
      state.column = null;
      state.falling = false;
      state.open.add(row);
      mark();
      refresh();
      state.page = Math.floor(row / Number(size.value));
      show();
      const target = [...body.querySelectorAll("th button")].find((one) => one.textContent === count(data.rows[row]));
      target.scrollIntoView({ block: "start" });
      target.focus({ preventScroll: true });
    });
  }

  mark();
  browser.hidden = false;
  refresh();
})();
