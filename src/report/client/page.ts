// The script of the report's page: filters, their counts, and the enlarged pictures. It is inlined into the page, so it
// is a script, not a module; without it the page still shows everything.
{
  const element = <T extends HTMLElement>(id: string): T => {
    const found = document.getElementById(id);
    if (!found) throw new Error(`no #${id}`);
    return found as T;
  };

  const table = element<HTMLTableElement>('rows');
  const rows = [...table.querySelectorAll<HTMLTableRowElement>('tbody > tr')];
  const boxes = [...document.querySelectorAll<HTMLInputElement>('#filters input')];
  const facets = [...new Set(boxes.map(({ name }) => name))];
  const reset = element<HTMLButtonElement>('reset');
  const shown = element('shown');

  /** The rows that every facet lets pass, but for the facet `except`. */
  const passing = (except?: string): HTMLTableRowElement[] => {
    const wanted = facets
      .filter((facet) => facet !== except)
      .map((facet) => ({
        facet,
        values: new Set(boxes.filter(({ name, checked }) => name === facet && checked).map(({ value }) => value)),
      }))
      .filter(({ values }) => values.size > 0); // nothing chosen: everything
    return rows.filter((row) => wanted.every(({ facet, values }) => values.has(row.dataset[facet] ?? '')));
  };

  const count = (): void => {
    for (const facet of facets) {
      const counts = new Map<string, number>();
      for (const row of passing(facet)) {
        const value = row.dataset[facet] ?? '';
        counts.set(value, (counts.get(value) ?? 0) + 1);
      }
      for (const box of boxes) {
        if (box.name !== facet) continue;
        const label = box.closest('label');
        const images = counts.get(box.value) ?? 0;
        const number = label?.querySelector('.count');
        if (number) number.textContent = String(images);
        label?.classList.toggle('empty', images === 0);
      }
    }
  };

  const filter = (): void => {
    const visible = new Set(passing());
    for (const row of rows) row.hidden = !visible.has(row);
    count();
    const all = visible.size === rows.length;
    shown.textContent = all ? `${rows.length} images` : `${visible.size} of ${rows.length} images`;
    reset.disabled = !boxes.some(({ checked }) => checked);
  };

  const filters = element('filters');
  filters.addEventListener('change', filter);
  reset.addEventListener('click', () => {
    for (const box of boxes) box.checked = false;
    filter();
    boxes[0]?.focus(); // the button is disabled now and would lose the focus to nowhere
  });
  filters.hidden = false;
  filter(); // a browser may have kept the boxes of an earlier visit

  const viewer = element<HTMLDialogElement>('viewer');
  const picture = element('picture');
  const caption = element('caption');
  let current: HTMLButtonElement | undefined;

  const show = (button: HTMLButtonElement): void => {
    const small = button.querySelector('img');
    if (!small) return;
    current = button;
    const [width, height] = [Number(small.getAttribute('width')), Number(small.getAttribute('height'))];
    const large = new Image(width, height);
    large.src = small.src;
    large.alt = small.alt;
    large.style.setProperty('--ratio', String(width / height)); // it fills the window as far as its proportions let it
    picture.replaceChildren(large);
    caption.textContent = small.alt;
    if (!viewer.open) viewer.showModal();
  };

  const turn = (step: number): void => {
    const buttons = [...(current?.closest('tr')?.querySelectorAll<HTMLButtonElement>('.shot button') ?? [])];
    const at = current ? buttons.indexOf(current) : -1;
    const next = buttons[(at + step + buttons.length) % buttons.length];
    if (next) show(next);
  };

  table.addEventListener('click', (event) => {
    const button = (event.target as Element).closest<HTMLButtonElement>('.shot button');
    if (button) show(button);
  });
  element('previous').addEventListener('click', () => turn(-1));
  element('next').addEventListener('click', () => turn(1));
  element('close').addEventListener('click', () => viewer.close());
  viewer.addEventListener('click', (event) => {
    if (!(event.target as Element).closest('.bar')) viewer.close();
  });
  viewer.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowLeft') turn(-1);
    if (event.key === 'ArrowRight') turn(1);
  });
  viewer.addEventListener('close', () => current?.focus());
}
