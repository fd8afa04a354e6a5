/** The numbers that a command line gives as `--name value`; others than `names` end the process. */
export function flags(names) {
  const found = {};
  const args = process.argv.slice(2);
  for (let i = 0; i < args.length; i += 2) {
    const name = args[i].replace(/^--/, '');
    const value = Number(args[i + 1]);
    if (!names.includes(name) || !Number.isFinite(value)) {
      console.error(`expected --${names.join(' N, --')} N, got ${args[i]} ${args[i + 1] ?? ''}`);
      process.exit(2);
    }
    found[name] = value;
  }
  return found;
}
