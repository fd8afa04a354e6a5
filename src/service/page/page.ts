// Sends the picture that is dropped, chosen or pasted to the service, and shows its answer.
/** The element with that id, which the page has. */
const at = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;
const input = (id: string): HTMLInputElement => at<HTMLInputElement>(id);
const parts = { locked: at('entry'), progress: at('progress'), error: at('error'), result: at('result') };
const tokenKey = 'ddad-token';
const verdicts: Record<string, string> = {
  good: '✓ Good',
  anomalous: '✕ Anomalous',
  none: 'No verdict: the model has no threshold',
};
const formats = at('limits').textContent;
let limits: { bytes: number } | undefined;
let running: AbortController | undefined;
let last: File | undefined;
let urls: string[] = [];

/** Shows one part of the page and hides the others. */
function show(state: string): void {
  document.body.dataset['state'] = state;
  for (const [name, part] of Object.entries(parts)) part.hidden = name !== state;
}

/** Asks the service, with the token where there is one. */
function ask(place: string, { headers, ...options }: RequestInit = {}): Promise<Response> {
  const token = sessionStorage.getItem(tokenKey);
  return fetch(place, {
    ...options,
    headers: { ...(headers as Record<string, string>), ...(token && { authorization: `Bearer ${token}` }) },
  });
}

/** Asks for the token, again where the last one was refused. */
function askToken(refused: boolean): void {
  sessionStorage.removeItem(tokenKey);
  running?.abort();
  if (refused) showError('That token is not right', 'Look for a missing or a wrong letter, and give it once more.');
  else show('locked');
  document.body.dataset['state'] = 'locked';
  parts.locked.hidden = false;
  input('token').value = '';
  at('token').focus();
}

function showError(title: string, text: string): void {
  at('status').textContent = '';
  at('error-title').textContent = title;
  at('error-text').textContent = text;
  show('error');
}

const megabytes = (bytes: number): string => `${Number((bytes / 1e6).toPrecision(3))}\u00a0MB`;
const sentence = (text: string): string =>
  `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
const short = (number: string | null): string => String(Number(Number(number).toPrecision(4)));

/** Shows what came back: the overlay, and in its headers the figures. */
function showResult(file: File, headers: Headers, overlay: Blob): void {
  for (const url of urls) URL.revokeObjectURL(url);
  const [original, covered] = [URL.createObjectURL(file), URL.createObjectURL(overlay)];
  urls = [original, covered];
  const figure = (name: string): string | null => headers.get(`ddad-${name}`);
  const [score, threshold, verdict] = [figure('score'), figure('threshold'), figure('verdict') ?? 'none'];
  const words = verdicts[verdict] ?? verdict;
  at('verdict').dataset['verdict'] = verdict;
  at('verdict').textContent = words;
  at('score').textContent = short(score);
  at('threshold-row').hidden = threshold === null;
  at('threshold').textContent = threshold === null ? '' : short(threshold);
  at('name').textContent = file.name;
  Object.assign(at('save'), { href: covered, download: `${file.name.replace(/\.[^.]+$/, '')}.heatmap.png` });
  const picture = at<HTMLImageElement>('picture');
  const draw = (): void => {
    const covers = input('overlay').checked;
    picture.src = covers ? covered : original;
    picture.alt = covers ? `${file.name}, coloured where it differs from good pictures` : file.name;
  };
  input('overlay').checked = true;
  at('overlay').onchange = draw;
  // A browser does not show all formats that the service reads.
  const probe = new Image();
  at('toggle').hidden = true;
  probe.onload = () => {
    at('toggle').hidden = false;
  };
  probe.src = original;
  draw();
  show('result');
  const limit = threshold === null ? '' : `, threshold ${short(threshold)}`;
  at('status').textContent = `${file.name}: ${words.replace(/^\W+/, '')}, score ${short(score)}${limit}`;
}

/** What a refusal says; something between here and the service may have answered in its place. */
const reasonOf = (response: Response): Promise<string> =>
  response.json().then(
    ({ message }: { message: string }) => message,
    () => `the answer was ${response.status} ${response.statusText}`,
  );

async function score(file: File): Promise<void> {
  last = file;
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const title = `${file.name} could not be scored`;
  if (limits && file.size > limits.bytes) {
    return showError(title, `It has ${megabytes(file.size)}; at most ${megabytes(limits.bytes)} are allowed.`);
  }
  at('progress-text').textContent = at('status').textContent = `Scoring ${file.name}…`;
  show('progress');
  const body = new FormData();
  const product = at<HTMLSelectElement>('product').value;
  if (product) body.append('product', product);
  body.append('image', file);
  try {
    const response = await ask('score', { method: 'POST', body, headers: { accept: 'image/png' }, signal });
    if (response.status === 401) askToken(true);
    else if (response.ok) showResult(file, response.headers, await response.blob());
    else showError(title, sentence((await reasonOf(response)).replace(/^the image: /, '')));
  } catch {
    if (!signal.aborted) showError(title, 'The service cannot be reached, or went away before it answered.');
  }
}

function take(files: readonly File[]): void {
  if (document.body.dataset['state'] === 'locked') return;
  const [first] = files;
  if (files.length === 1 && first) void score(first);
  else if (files.length > 1) showError('One picture at a time, please', `${files.length} files were dropped.`);
}

const chosen = input('file');
chosen.addEventListener('change', () => {
  take([...(chosen.files ?? [])]);
  chosen.value = ''; // so that the same picture can be chosen again
});
addEventListener('paste', ({ clipboardData }) => take([...(clipboardData?.files ?? [])]));
addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dragging');
});
addEventListener('dragleave', ({ relatedTarget }) => {
  if (relatedTarget === null) document.body.classList.remove('dragging');
});
addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dragging');
  take([...(event.dataTransfer?.files ?? [])]);
});

at('product').addEventListener('change', () => {
  if (last) void score(last);
});

/** What /healthz says to whoever has the token. */
interface Health {
  model: string;
  products: string[] | null;
  limits?: { bytes: number };
}

/** Shows what is served; a service that does not say so wants its token first. */
async function connect(): Promise<void> {
  const response = await ask('healthz').catch(() => undefined);
  if (response?.status === 401) return askToken(true);
  if (!response?.ok) return;
  const { model, products, limits: given } = (await response.json()) as Health;
  if (given === undefined) return askToken(false);
  limits = given;
  if (document.body.dataset['state'] === 'locked') show('empty');
  at('model').textContent = model;
  document.title = `Find defects: ${model}`;
  at('limits').textContent = `${formats}, up to ${megabytes(limits.bytes)}`;
  at('product').replaceChildren(...(products ?? []).map((name) => new Option(name)));
  at('product-row').hidden = !products;
}

parts.locked.addEventListener('submit', (event) => {
  event.preventDefault();
  const token = input('token').value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) return askToken(true); // no header can carry it
  sessionStorage.setItem(tokenKey, token);
  void connect();
});

await connect();
