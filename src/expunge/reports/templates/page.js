"use strict";
// The parts of the page: charts are drawn when they come near the window, and again when light turns to dark.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = Array.from(document.querySelectorAll(".chart"));
  const drawn = new Set();
  const draw = (node) => { drawn.add(node); expungeCharts.draw(node, data); };
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { watch.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "600px" });
  charts.forEach((node) => watch.observe(node));

  // what is folded away has no width; it is drawn when it is opened again
  const again = () => drawn.forEach((node) => { if (node.clientWidth) draw(node); else { drawn.delete(node); watch.observe(node); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let width = innerWidth, timer = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(again, 120);
  });
  for (const choice of document.querySelectorAll(".choice")) {
    choice.addEventListener("change", () => {
      charts.filter((node) => node.dataset.chart === choice.dataset.chart).forEach(draw);
    });
  }
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((node) => { node.open = true; });
    charts.forEach(draw);
  });
  if (document.getElementById("examples")) expungeAnswers(data);
})();
