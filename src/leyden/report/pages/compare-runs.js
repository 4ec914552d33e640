/* The table of runs: a heading sorts by its column, once more the other way; cells without a value stay last. */
(() => {
  const table = document.querySelector("#compare-runs table"), body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const valueOf = (row, place) => row.cells[place].dataset.value;
  const asNumber = (text) => (text.trim() === "" ? NaN : Number(text));

  function sort(place, down) {
    const rows = [...body.rows];
    const numeric = rows.every((row) => valueOf(row, place) === undefined || Number.isFinite(asNumber(valueOf(row, place))));
    const order = (a, b) => {
      const x = valueOf(a, place), y = valueOf(b, place);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const sign = numeric ? asNumber(x) - asNumber(y) : x.localeCompare(y, undefined, { numeric: true });
      return down ? -sign : sign;
    };
    body.append(...rows.sort(order));
    headings.forEach((one) => one.removeAttribute("aria-sort"));
    headings[place].setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  headings.forEach((heading, place) => {
    heading.querySelector("button").addEventListener("click", () => sort(place, heading.getAttribute("aria-sort") === "ascending"));
  });
})();
