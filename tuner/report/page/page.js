// Draws the figures in the colours of the theme, and draws them again when the theme changes.
"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = Object.keys(figures).map((name) => [document.getElementById(name), figures[name]]);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const print = matchMedia("print");

  let before = null; // the theme before printing; null when the page is not being printed

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
    for (const [element, figure] of plots) {
      // Plotly changes its arguments, so it gets a copy.
      const { data, layout } = structuredClone(figure);
      if (before !== null) layout.width = element.parentElement.matches(".whole") ? 670 : 325;
      Plotly.react(element, data, themed(layout), { displayModeBar: false, responsive: true, doubleClick: "reset" });
    }
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show in ${isDark() ? "light" : "dark"} colours`);
  }

  // Prints in light colours, and makes the figures as wide as the columns on paper.
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
    if (!printing) plots.forEach(([element]) => Plotly.Plots.resize(element));
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
