"use strict";
// A map of spots: what colors them is chosen, what a spot holds is shown when it is pointed at, or reached by arrow keys.
(() => {
  const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const words = (text) => new Uint16Array(bytes(text).buffer);
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const ramp = RAMP.map(rgb);
  const colorOf = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (ramp.length - 1), i = Math.min(Math.floor(place), ramp.length - 2);
    return "rgb(" + ramp[i].map((low, k) => Math.round(low + (ramp[i + 1][k] - low) * (place - i))).join(",") + ")";
  };
  const format = (number) => number >= 100 ? Math.round(number).toLocaleString("en") : String(+number.toPrecision(3));

  for (const root of document.querySelectorAll(".map")) {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const canvas = root.querySelector("canvas"), select = root.querySelector("select"), told = root.querySelector("output");
    const legend = root.querySelector(".legend"), tip = root.querySelector(".tip"), toggle = root.querySelector("input");
    const xy = Array.from(words(data.xy), (step) => step / 65535);
    const n = xy.length / 2;
    for (const layer of data.layers) layer.values = layer.kind === "category" ? bytes(layer.data) : words(layer.data);
    const image = data.image ? Object.assign(new Image(), { src: data.image.src }) : null;
    let current = 0, at = -1;

    const raw = (layer, i) => {
      const value = layer.values[i] / 65535 * layer.top;
      return layer.log ? Math.round(Math.expm1(value)) : value;
    };
    const text = (layer, i) => layer.kind === "category" ? layer.names[layer.values[i]] ?? "none" : format(raw(layer, i));
    const color = (layer, i) => {
      if (layer.kind === "category") return layer.colors[layer.values[i]] ?? "#bbbbbb";
      return colorOf((layer.values[i] / 65535 * layer.top - layer.low) / (layer.high - layer.low));
    };

    const draw = () => {
      const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1, scale = width / data.width;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(data.height * scale * ratio);
      canvas.style.height = data.height * scale + "px";
      const pen = canvas.getContext("2d"), layer = data.layers[current];
      const onImage = image && image.complete && toggle && toggle.checked;
      pen.scale(ratio * scale, ratio * scale);
      if (onImage) {
        pen.save();
        pen.transform(...data.image.matrix);
        pen.drawImage(image, 0, 0);
        pen.restore();
      }
      const radius = data.radius * (onImage ? 0.55 : 1.16);
      for (let i = 0; i < n; i++) {
        pen.fillStyle = color(layer, i);
        pen.beginPath();
        pen.arc(xy[2 * i], xy[2 * i + 1], radius, 0, 2 * Math.PI);
        pen.fill();
      }
      if (at >= 0) {
        pen.lineWidth = data.radius * 0.6;
        pen.strokeStyle = getComputedStyle(root).color;
        pen.beginPath();
        pen.arc(xy[2 * at], xy[2 * at + 1], data.radius * 1.5, 0, 2 * Math.PI);
        pen.stroke();
      }
    };

    const showLegend = () => {
      const layer = data.layers[current];
      legend.replaceChildren();
      const make = (tag, content, style) => Object.assign(document.createElement(tag), { textContent: content, style });
      const add = (tag, content, style) => legend.append(make(tag, content, style));
      if (layer.kind === "category") {
        layer.names.forEach((name, k) => {
          const item = make("span", name, "");
          item.prepend(make("i", "", `background:${layer.colors[k]}`));
          legend.append(item);
        });
        return;
      }
      const end = (value) => format(layer.log ? Math.expm1(value) : value);
      add("span", end(layer.low), "");
      add("b", "", `background:linear-gradient(90deg,${RAMP.join(",")})`);
      add("span", end(layer.high), "");
    };

    const point = (i) => {
      at = i;
      draw();
      if (i < 0) { tip.hidden = true; return; }
      const layer = data.layers[current];
      const lines = [data.spots[i]];
      for (const name of ["Domain", "Counts per spot"]) {
        const other = data.layers.find((one) => one.name === name);
        if (other && other !== layer) lines.push(`${name}: ${text(other, i)}`);
      }
      lines.push(`${layer.name}: ${text(layer, i)}`);
      tip.replaceChildren(...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })));
      tip.hidden = false;
      const scale = canvas.clientWidth / data.width, x = xy[2 * i] * scale, y = xy[2 * i + 1] * scale;
      tip.style.left = Math.min(Math.max(x - tip.offsetWidth / 2, 0), canvas.clientWidth - tip.offsetWidth) + "px";
      tip.style.top = (y > tip.offsetHeight + 16 ? y - tip.offsetHeight - 12 : y + 14) + "px";
    };

    const nearest = (x, y, allowed) => {
      let best = -1, least = Infinity;
      for (let i = 0; i < n; i++) {
        const dx = xy[2 * i] - x, dy = xy[2 * i + 1] - y, square = dx * dx + dy * dy;
        if (square < least && (!allowed || allowed(dx, dy))) { least = square; best = i; }
      }
      return [best, Math.sqrt(least)];
    };
    const follow = (event) => {
      const box = canvas.getBoundingClientRect(), scale = canvas.clientWidth / data.width;
      const [i, distance] = nearest((event.clientX - box.left) / scale, (event.clientY - box.top) / scale);
      point(distance < 2 * data.radius ? i : -1);
    };
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("pointerdown", follow);
    canvas.addEventListener("pointerleave", () => point(-1));
    canvas.addEventListener("blur", () => point(-1));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const from = at >= 0 ? [xy[2 * at], xy[2 * at + 1]] : [data.width / 2, data.height / 2];
      const along = (dx, dy) => dx * step[0] + dy * step[1] > 0.8 * Math.hypot(dx, dy);
      const [i] = at >= 0 ? nearest(...from, along) : nearest(...from);
      if (i < 0) return;
      point(i);
      told.textContent = Array.from(tip.children, (line) => line.textContent).join(". ");
    });
    const groups = new Map();
    data.layers.forEach((layer, k) => {
      const group = layer.group || "Spots";
      if (!groups.has(group)) {
        groups.set(group, Object.assign(document.createElement("optgroup"), { label: group }));
        select.append(groups.get(group));
      }
      groups.get(group).append(new Option(layer.name, k));
    });
    select.addEventListener("change", () => { current = +select.value; at = -1; tip.hidden = true; showLegend(); draw(); });
    if (toggle) toggle.addEventListener("change", draw);
    if (image) image.addEventListener("load", draw);
    new ResizeObserver(draw).observe(canvas.parentElement);
    root.classList.add("live");
    showLegend();
    draw();
  }
})();
