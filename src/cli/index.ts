import yargs from 'yargs';
import { toDdadError } from '../errors.js';
import { didYouMean } from '../suggest.js';
import { packageVersion } from '../version.js';
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
import { trainCommand } from './train.js';
import { exitCodeOf, exitCodes, UsageError } from './usage.js';
import { verifyCommand } from './verify.js';

const commands: Record<string, Pick<Command<never>, 'usage' | 'flags'>> = {
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

/** Lets work be stopped by Ctrl-C or SIGTERM; the second time ends the process at once. */
async function interruptible(work: (signal: AbortSignal) => Promise<number>): Promise<number> {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(exitCodes.interrupted);
    controller.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  try {
    return await work(controller.signal);
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  }
}

/** One line for people; the stack only when it is asked for. */
function report(error: unknown, debug: boolean): void {
  const code = error instanceof UsageError ? 'ERR_USAGE' : toDdadError(error).code;
  const { message, stack } = error as Error;
  log(`ddad-native: ${code}: ${message.replace(/\s+/g, ' ')}`);
  if (debug) log(stack ?? '');
}

/** yargs' message about a command line, in the words of the others, with the nearest known word where one is unknown. */
function explain(message: string, args: readonly string[]): string {
  const command = args.find((word) => word in commands);
  const { usage = '<command>', flags = {} } = (command === undefined ? undefined : commands[command]) ?? {};
  if (message.startsWith('Not enough non-option arguments')) return `expected "ddad-native ${usage}"`;
  const choice = /^Invalid values:\s+Argument: (.+), Given: (.+), Choices: (.+)$/.exec(message);
  if (choice) return `--${choice[1]}: expected ${choice[3]}, got ${choice[2]}`;
  const bare = /^Not enough arguments following: (.+)/.exec(message)?.[1];
  if (bare !== undefined) return `--${bare}: expected a value, got nothing`;
  const missing = /^Missing required argument: (.+)/.exec(message)?.[1];
  if (missing !== undefined) return `expected --${missing}, which is required; see ddad-native ${command} --help`;
  const word = /^Unknown (?:argument|command)s?: ([^,]+)/.exec(message)?.[1];
  if (word === undefined) return message;
  if (args.some((arg) => arg.startsWith('-') && arg.replace(/^-+/, '').split('=')[0] === word)) {
    return `unknown option "--${word}"${didYouMean(word, Object.keys(flags))}`;
  }
  if (command === undefined) return `unknown command "${word}"${didYouMean(word, Object.keys(commands))}`;
  return `unexpected argument "${word}"; expected "ddad-native ${usage}"`;
}

/** Runs a command line (without `node` and the script's name); resolves to the exit status. */
export async function main(args: readonly string[]): Promise<number> {
  const debug = args.includes('--debug') || Boolean(process.env['DDAD_DEBUG']);
  // A reader that has seen enough (`| head`) is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(exitCodes.done);
  });
  let status: number = exitCodes.done;
  const context: Context = {
    run: async (work) => {
      status = await interruptible(work);
    },
  };
  const parser = yargs([...args])
    .scriptName('ddad-native')
    .locale('en')
    .version(packageVersion())
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
      throw new UsageError(explain(message ?? error?.message ?? 'the command line cannot be understood', args));
    });
  try {
    await parser.parseAsync();
    return status;
  } catch (error) {
    report(error, debug);
    return exitCodeOf(error);
  }
}
