"use strict";
/* What every page has: reading data, the theme, and the section that is in sight. */
const leyden = {
  /** The value that `json_script` has put into the page; null without one. */
  read(id) {
    const element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : null;
  },
  /** A new element with attributes and text; text is never read as markup. */
  make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  },
  /** Whether the page is dark now. */
  dark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },
  /** The color that `var(--name)` is now. */
  color(text) {
    const probe = leyden.probe ??= document.body.appendChild(leyden.make("span", { hidden: "" }));
    probe.style.color = text;
    return getComputedStyle(probe).color;
  },
  themed: [],
  /** Call a function whenever the page turns dark or light. */
  onTheme(call) {
    leyden.themed.push(call);
  },
};

(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const store = (value) => { try { localStorage.setItem("leyden-theme", value); } catch { /* no storage: forgotten */ } };
  let chosen = null;
  try { chosen = localStorage.getItem("leyden-theme"); } catch { /* no storage: as the system is */ }
  const tell = () => {
    button.textContent = leyden.dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", leyden.dark() ? "Light colours" : "Dark colours");
    leyden.themed.forEach((call) => call());
  };
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = leyden.dark() ? "light" : "dark";
    store(root.dataset.theme);
    tell();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  tell();

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("main > section")];
  const mark = () => {
    const reached = sections.filter((one) => one.getBoundingClientRect().top < innerHeight / 3);
    const current = (reached.length ? reached[reached.length - 1] : sections[0])?.id;
    links.forEach((link, id) => (id === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  };
  if (links.size) {
    let waiting = false;
    addEventListener("scroll", () => {
      if (!waiting) requestAnimationFrame(() => { waiting = false; mark(); });
      waiting = true;
    }, { passive: true });
    mark();
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details[data-print]").forEach((one) => { one.open = true; }));
})();
