import yargs from 'yargs';
import { toDdadError } from '../base/errors.js';
import { renamedOptions } from '../config/options.js';
import { didYouMean } from '../base/suggest.js';
import { packageVersion } from '../base/package.js';
import { benchCommand } from './bench.js';
import { type Command, type Context, toModule } from './command.js';
import { evaluateCommand } from './evaluate.js';
import { importCommand } from './import.js';
import { exportCommand } from './export.js';
import { infoCommand } from './info.js';
import { log } from './output.js';
import { fitPadimCommand } from './fit-padim.js';
import { reconstructCommand, sampleCommand } from './reconstruct.js';
import { scoreCommand } from './score.js';
import { serveCommand } from './serve.js';
import { signCommand } from './sign.js';
import { outliveTerminals, ReaderGone, stdout } from './streams.js';
import { trainCommand } from './train.js';
import { exitCodeOf, exitCodes, UsageError } from './usage.js';
import { verifyCommand } from './verify.js';

/** Every command by its name, for the tests too. */
export const commands: Record<string, Pick<Command<never>, 'usage' | 'positionals' | 'flags'>> = {
  train: trainCommand,
  score: scoreCommand,
  evaluate: evaluateCommand,
  reconstruct: reconstructCommand,
  sample: sampleCommand,
  'fit-padim': fitPadimCommand,
  serve: serveCommand,
  import: importCommand,
  export: exportCommand,
  sign: signCommand,
  verify: verifyCommand,
  bench: benchCommand,
  info: infoCommand,
};

const stopSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Lets work be stopped by Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal is closed; the second time ends the
 * process at once. Results that cannot be written stop it, too.
 */
async function interruptible(work: (signal: AbortSignal) => Promise<number>): Promise<number> {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(exitCodes.interrupted);
    controller.abort();
  };
  for (const name of stopSignals) process.on(name, onSignal);
  const unheard = stdout.onFailure((failure) => controller.abort(failure));
  try {
    return await work(controller.signal);
  } catch (error) {
    throw stdout.failure && toDdadError(error).code === 'ERR_ABORTED' ? stdout.failure : error;
  } finally {
    unheard();
    for (const name of stopSignals) process.off(name, onSignal);
  }
}

/** What options of the API are called on the command line, where it is not their own name. */
const flagNames: Record<string, string> = { kind: 'score', limitInputPixels: 'max-pixels' };

/** `memoryBank` as a flag. */
const flagOf = (option: string): string => option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** Names an option that the user has typed as a flag by that flag, instead of by its name in the API. */
function inFlags(message: string, args: readonly string[]): string {
  const flags = commandOf(args)?.flags ?? {};
  return message.replace(/^option "([^".]+)((?:\.[^"]+)?)"/, (text, name: string, inner: string) => {
    const flag = flagNames[name] ?? flagOf(name);
    return flag in flags ? `--${flag}${inner}` : text;
  });
}

/** One line for people; the stack only when it is asked for. */
function report(error: unknown, debug: boolean, args: readonly string[]): void {
  const code = error instanceof UsageError ? 'ERR_USAGE' : toDdadError(error).code;
  const { message, stack } = error as Error;
  log(`ddad-native: ${code}: ${inFlags(message, args).replace(/\s+/g, ' ')}`);
  if (debug) for (const line of (stack ?? '').split('\n')) log(line);
}

/** The command that a command line names. */
function commandOf(args: readonly string[]): (typeof commands)[string] | undefined {
  const name = args.find((word) => Object.hasOwn(commands, word));
  return name === undefined ? undefined : commands[name];
}

/** `; did you mean "--out"?` for a flag that is not there; of `-o` the first that begins so. */
function nearestFlag(word: string, flags: readonly string[], negated = false): string {
  const before = word.replace(/^no-/, '');
  const now = Object.hasOwn(renamedOptions, before) ? renamedOptions[before] : undefined;
  if (now !== undefined && flags.includes(flagOf(now)))
    return `; did you mean "--${negated ? 'no-' : ''}${flagOf(now)}"?`;
  const first = word.length === 1 ? flags.find((flag) => flag.startsWith(word.toLowerCase())) : undefined;
  return first === undefined ? didYouMean(word, flags, '--') : `; did you mean "--${first}"?`;
}

/** Flags that every command has. */
const globalFlags = ['help', 'version', 'debug'];

/** yargs' message about a command line, in the words of the others, with the nearest known word where one is unknown. */
function explain(message: string, args: readonly string[]): string {
  const command = args.find((word) => Object.hasOwn(commands, word));
  const { usage = '<command>', flags = {} } = commandOf(args) ?? {};
  const known = [...Object.keys(flags), ...globalFlags];
  if (message.startsWith('Not enough non-option arguments')) return `expected "ddad-native ${usage}"`;
  const choice = /^Invalid values:\s+Argument: (.+), Given: (.+), Choices: (.+)$/.exec(message);
  if (choice) return `--${choice[1]}: expected ${choice[3]}, got ${choice[2]}`;
  const bare = /^Not enough arguments following: (.+)/.exec(message)?.[1];
  if (bare !== undefined) return `--${bare}: expected a value, got nothing`;
  const missing = /^Missing required argument: (.+)/.exec(message)?.[1];
  if (missing !== undefined) {
    // Of a required option that was typed in another way, that way is what is wrong.
    const short = args.find((arg) => /^-[a-z]$/i.test(arg) && !['-h', '-v'].includes(arg));
    if (short !== undefined) return `unknown option "${short}"${nearestFlag(short.slice(1), known)}`;
    return `expected --${missing}, which is required; see ddad-native ${command} --help`;
  }
  const word = /^Unknown (?:argument|command)s?: ([^,]+)/.exec(message)?.[1];
  if (word === undefined) return message;
  // `--no-x` comes as `x`
  const typed = args.find(
    (arg) => /^-/.test(arg) && arg.replace(/^-+(no-)?/, '').split('=')[0] === word.replace(/^no-/, ''),
  );
  if (typed !== undefined) {
    return `unknown option "${typed.split('=')[0]}"${nearestFlag(word, known, /^-+no-/.test(typed))}`;
  }
  if (command === undefined) return `unknown command "${word}"${didYouMean(word, Object.keys(commands))}`;
  return `unexpected argument "${word}"; expected "ddad-native ${usage}"`;
}

/**
 * The words behind `--` are no options, whatever they begin with. yargs does not take them for positional arguments of a
 * command, so it gets words in their place that no command line can hold.
 */
class Literals {
  readonly args: string[];
  readonly #words: readonly string[];

  constructor(given: readonly string[]) {
    const at = given.indexOf('--');
    this.#words = at < 0 ? [] : given.slice(at + 1);
    this.args = [...(at < 0 ? given : given.slice(0, at)), ...this.#words.map((_, i) => `\0${i}`)];
  }

  /** The words themselves, in a text or the texts of a list. */
  restore(value: unknown): unknown {
    if (Array.isArray(value)) return value.map((one) => this.restore(one));
    return typeof value === 'string' ? this.restoreText(value) : value;
  }

  restoreText(text: string): string {
    return text.replace(/\0(\d+)/g, (_, i: string) => this.#words[Number(i)] as string);
  }
}

/** Runs a command line (without `node` and the script's name); resolves to the exit status. */
export async function main(given: readonly string[]): Promise<number> {
  const literals = new Literals(given);
  const { args } = literals;
  if (args.length === 1 && args[0] === 'version') args[0] = '--version'; // as other programs have it
  outliveTerminals();
  const debug = args.includes('--debug') || Boolean(process.env['DDAD_DEBUG']);
  let status: number = exitCodes.done;
  const context: Context = {
    run: async (work) => {
      status = await interruptible(work);
    },
    literal: (value) => literals.restore(value),
  };
  const parser = yargs(args)
    .scriptName('ddad-native')
    .locale('en')
    .version(packageVersion())
    .alias({ help: 'h', version: 'v' })
    .option('debug', { type: 'boolean', default: false, describe: 'Show stack traces', global: true })
    .command(toModule(trainCommand, context))
    .command(toModule(scoreCommand, context))
    .command(toModule(evaluateCommand, context))
    .command(toModule(reconstructCommand, context))
    .command(toModule(sampleCommand, context))
    .command(toModule(fitPadimCommand, context))
    .command(toModule(serveCommand, context))
    .command(toModule(importCommand, context))
    .command(toModule(exportCommand, context))
    .command(toModule(signCommand, context))
    .command(toModule(verifyCommand, context))
    .command(toModule(benchCommand, context))
    .command(toModule(infoCommand, context))
    .demandCommand(1, `expected a command: ${Object.keys(commands).join(', ')}; see ddad-native --help`)
    .strict()
    .wrap(Math.min(120, process.stdout.columns || 120))
    .exitProcess(false)
    .fail((message: string | null, error: Error | undefined) => {
      // What a command throws comes as itself, what yargs and the option checks find as a YError.
      if (error && error.name !== 'YError') throw error;
      const said = explain(message ?? error?.message ?? 'the command line cannot be understood', args);
      throw new UsageError(literals.restoreText(said));
    });
  try {
    await parser.parseAsync();
    await stdout.flush();
    // A reader that leaves when all is done takes nothing away.
    if (stdout.failure && !(stdout.failure instanceof ReaderGone)) throw stdout.failure;
    return status;
  } catch (error) {
    if (error instanceof ReaderGone) return exitCodes.readerGone;
    report(error, debug, args);
    return exitCodeOf(error);
  }
}
