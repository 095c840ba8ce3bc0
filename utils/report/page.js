// The numbers under the pointer, beside a dashed line.
for (const svg of document.querySelectorAll("svg[data-series]")) {
  const series = JSON.parse(svg.dataset.series), cursor = svg.querySelector(".cursor");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  svg.parentElement.append(tip);
  const nearest = (xs, x) => xs.reduce((best, v, i) => (Math.abs(v - x) < Math.abs(xs[best] - x) ? i : best), 0);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const at = nearest(series[0].x, x), [iteration] = series[0].at[at];
    const lines = series.map((s) => `${s.name} ${s.at[nearest(s.x, series[0].x[at])][1]}`);
    tip.textContent = [`iteration ${Math.round(iteration)}`, ...lines].join("\n");
    tip.hidden = false;
    cursor.setAttribute("transform", `translate(${series[0].x[at]} 0)`);
    cursor.style.visibility = "visible";
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.style.visibility = "hidden";
  });
}
