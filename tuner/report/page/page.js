// Draws the figures in the theme's colours, and again when it changes.
"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = Object.keys(figures).map((name) => [document.getElementById(name), figures[name]]);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const print = matchMedia("print");

  let before = null; // the theme before printing, while it lasts

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

  function themed(layout) {
    const style = getComputedStyle(root);
    const [ink, rule, panel] = ["--ink", "--rule", "--panel"].map((name) => style.getPropertyValue(name).trim());
    const axis = { gridcolor: rule, linecolor: rule, tickcolor: rule, zerolinecolor: rule };
    const shapes = (layout.shapes || []).map((shape) =>
      shape.type === "line" ? { ...shape, line: { ...shape.line, color: ink } } : shape);
    return {
      ...layout,
      shapes,
      font: { ...layout.font, color: ink, family: "system-ui, 'Segoe UI', Roboto, sans-serif", size: 12 },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
      hoverlabel: { bgcolor: panel, bordercolor: rule, font: { color: ink } },
    };
  }

  function draw() {
    for (const [place, figure] of plots) {
      // A copy: Plotly writes into what it is given.
      const { data, layout } = structuredClone(figure);
      if (before !== null) layout.width = place.parentElement.matches(".whole") ? 670 : 325;
      Plotly.react(place, data, themed(layout), { displayModeBar: false, responsive: true, doubleClick: "reset" });
    }
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show in ${isDark() ? "light" : "dark"} colours`);
  }

  // On paper: in light colours, as wide as the paper's columns.
  function toPaper(printing) {
    if (printing === (before !== null)) return;
    if (printing) {
      before = root.dataset.theme || "";
      root.dataset.theme = "light";
    } else {
      if (before) root.dataset.theme = before;
      else delete root.dataset.theme;
      before = null;
    }
    draw();
    if (!printing) plots.forEach(([place]) => Plotly.Plots.resize(place));
  }

  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    draw();
  });
  dark.addEventListener("change", draw);
  print.addEventListener("change", (event) => toPaper(event.matches));
  addEventListener("beforeprint", () => toPaper(true));
  addEventListener("afterprint", () => toPaper(false));
  draw();
})();
