for (const table of document.querySelectorAll("table.sortable")) {
  table.classList.add("js");
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const of = row => { const c = row.cells[place]; return c.dataset.v ?? c.textContent; };
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const d = Number(a) - Number(b);
      return sign * (Number.isNaN(d) ? a.localeCompare(b) : d);
    };
    const body = table.tBodies[0];
    [...body.rows].sort((a, b) => compare(of(a), of(b))).forEach(row => body.append(row));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  }));
}
