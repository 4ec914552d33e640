/* Charts: unpack plotly once, draw each figure when it comes into sight, and again when theme, width or controls change. */
leyden.charts = (() => {
  const charts = [...document.querySelectorAll("figure[data-chart]")].map((figure) => ({
    figure,
    plot: figure.querySelector(".plot"),
    source: JSON.parse(figure.querySelector('script[type="application/json"]').textContent),
    hidden: new Set(),
    drawn: false,
  }));
  const control = document.getElementById("smoothing"), said = document.getElementById("smoothing-value");
  let ready = null, printing = false;

  async function load() {
    const element = document.getElementById("plotly");
    const bytes = Uint8Array.from(atob(element.textContent), (sign) => sign.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const script = document.createElement("script");
    script.nonce = document.currentScript?.nonce || document.querySelector("script[nonce]").nonce;
    script.textContent = text;
    document.head.append(script);
    element.remove();
  }

  /* Exponential moving average, corrected for its start as if there were more of the same before. */
  function smoothed(values, weight) {
    let last = 0, seen = 0;
    return values.map((value) => {
      if (value === null || !Number.isFinite(value)) return null;
      last = last * weight + (1 - weight) * value;
      seen += 1;
      return last / (1 - weight ** seen);
    });
  }

  /* Colours become what they are now; other text is shown as it is: plotly would read some tags in it. */
  const SIGNS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "%{": "%\u2060{" };
  function resolved(value, key) {
    if (typeof value === "string") {
      if (value.startsWith("var(--")) return leyden.color(value);
      return key?.endsWith("template") ? value : value.replace(/[&<>]|%\{/g, (sign) => SIGNS[sign]);
    }
    if (Array.isArray(value)) return value.every((one) => typeof one === "number") ? value : value.map((one) => resolved(one));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolved(v, k)]));
    return value;
  }

  function traces(chart) {
    const weight = control ? Number(control.value) : 0, found = [];
    chart.source.data.forEach((trace, place) => {
      if (chart.hidden.has(place)) return;
      const one = resolved({ showlegend: false, ...trace });
      if (trace.meta?.smooth && weight > 0) {
        found.push({ ...one, opacity: leyden.dark() ? 0.45 : 0.3, hoverinfo: "skip", line: { ...one.line, width: 1, dash: "solid" } });
        one.y = smoothed(one.y, weight);
      }
      found.push(one);
    });
    return found;
  }

  const AXIS = /^[xy]axis\d*$/;
  function layout(chart) {
    const own = resolved(chart.source.layout ?? {}), ink = leyden.color("var(--ink-soft)"), paper = leyden.color("var(--paper)");
    const base = {
      gridcolor: leyden.color("var(--rule)"), linecolor: leyden.color("var(--rule)"),
      zerolinecolor: leyden.color("var(--rule-strong)"), tickcolor: leyden.color("var(--rule)"),
    };
    const axes = Object.fromEntries(
      Object.entries({ xaxis: {}, yaxis: {}, ...own }).filter(([name]) => AXIS.test(name)).map(([name, axis]) => {
        const title = typeof axis.title === "string" ? { text: axis.title } : axis.title;
        return [name, { ...base, fixedrange: true, automargin: name[0] === "y", exponentformat: "power", zeroline: name[0] === "y", ...axis, title: { standoff: 10, font: { size: 12 }, ...title } }];
      }),
    );
    return {
      autosize: true, height: 300, margin: { l: 12, r: 12, t: 10, b: 46 }, hovermode: "x unified", dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
      hoverlabel: { bgcolor: paper, bordercolor: leyden.color("var(--rule-strong)"), font: { color: leyden.color("var(--ink)") } },
      ...own, ...axes,
    };
  }

  function draw(chart) {
    if (!window.Plotly) return;
    chart.plot.querySelector(".unscripted")?.remove();
    chart.drawn = true;
    chart.width = chart.plot.clientWidth;
    Plotly.react(chart.plot, traces(chart), layout(chart), { displayModeBar: false, responsive: false, displaylogo: false });
  }

  const all = () => charts.forEach((chart) => chart.drawn && draw(chart));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((one) => one.plot === entry.target);
      if (entry.isIntersecting && !chart.drawn) draw(chart);
    }
  }, { rootMargin: "300px" });
  const sized = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((one) => one.plot === entry.target);
      if (chart.drawn && !printing && chart.plot.clientWidth && chart.plot.clientWidth !== chart.width) draw(chart);
    }
  });

  charts.forEach((chart) => {
    chart.figure.querySelectorAll("input[data-trace]").forEach((box) => {
      box.addEventListener("change", () => {
        chart.hidden[box.checked ? "delete" : "add"](Number(box.dataset.trace));
        if (chart.drawn) draw(chart);
      });
    });
  });
  control?.addEventListener("input", () => { said.textContent = Number(control.value).toFixed(2); all(); });
  leyden.onTheme(all);
  /* On paper: every chart, in the colours and the width that the style of the print has by then. */
  const print = (now) => {
    printing = now;
    if (now) charts.filter((chart) => chart.plot.clientWidth).forEach((chart) => draw(chart));
    else all();
  };
  matchMedia("print").addEventListener("change", (event) => print(event.matches));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));

  ready = load().then(() => {
    charts.forEach((chart) => { seen.observe(chart.plot); sized.observe(chart.plot); });
  }, () => {
    document.querySelectorAll(".unscripted").forEach((one) => { one.textContent = "This browser cannot unpack the script that draws; the numbers stand below."; });
  });
  return { ready, redraw: all, drawAll: () => charts.forEach(draw) };
})();
