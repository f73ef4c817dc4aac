"use strict";
// Everything can be read without this: it sorts tables, and shows a mark's title at once where a browser would wait.

const REACH_PX = 28;

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      sort(table.tBodies[0], column, falling ? -1 : 1);
    });
  });
}

function sort(body, column, direction) {
  const figures = body.rows[0]?.cells[column].classList.contains("figure");
  const key = (row) => {
    const cell = row.cells[column];
    return figures ? Number.parseFloat(cell.dataset.value) : cell.textContent;
  };
  const order = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (!figures) return direction * x.localeCompare(y);
    // What has no figure stays at the end.
    return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : direction * (x - y);
  };
  body.append(...[...body.rows].sort(order));
}

function tooltips(svg, tip) {
  const marks = [...svg.querySelectorAll("title")].map((title) => {
    const mark = title.parentNode;
    mark.dataset.tip = title.textContent;
    title.remove();
    return mark;
  });
  let shown = null;
  const hide = () => {
    shown?.classList.remove("near");
    shown = null;
    tip.hidden = true;
  };
  const show = (event) => {
    const mark = nearest(marks, event.clientX, event.clientY);
    if (!mark) return hide();
    shown?.classList.remove("near");
    shown = mark;
    mark.classList.add("near");
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    place(tip, event.clientX, event.clientY);
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  document.addEventListener("scroll", hide, { passive: true });
}

function nearest(marks, x, y) {
  let [best, least] = [null, REACH_PX];
  for (const mark of marks) {
    const box = mark.getBoundingClientRect();
    const across = Math.max(box.left - x, 0, x - box.right);
    const down = Math.max(box.top - y, 0, y - box.bottom);
    const distance = Math.hypot(across, down);
    if (distance < least) [best, least] = [mark, distance];
  }
  return best;
}

function place(tip, x, y) {
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x - box.width / 2), window.innerWidth - box.width - 8);
  const above = y - box.height - 16;
  tip.style.left = `${left}px`;
  tip.style.top = `${above < 8 ? y + 20 : above}px`;
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("svg[role=img]").forEach((svg) => tooltips(svg, document.getElementById("tip")));
