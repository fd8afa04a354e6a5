import type { Argv, CommandModule, Options } from 'yargs';

/** What a command gets from the command line around it. */
export interface Context {
  /** Runs a command's work with a signal that Ctrl-C fires; its result is the exit status. */
  run(work: (signal: AbortSignal) => Promise<number>): Promise<void>;
  /** What stood on the command line in this value's place. */
  literal(value: unknown): unknown;
}

/** A command as this file's siblings describe it. */
export interface Command<Arguments> {
  /** As yargs has it: `score <model> <images..>`. */
  usage: string;
  describe: string;
  positionals: Record<string, string>;
  flags: Record<string, Options>;
  example?: [command: string, what: string];
  work(argv: Arguments, signal: AbortSignal): Promise<number>;
}

/** The command for yargs. */
export function toModule<Arguments>(command: Command<Arguments>, context: Context): CommandModule {
  return {
    command: command.usage,
    describe: command.describe,
    builder: (yargs: Argv) => {
      for (const [name, describe] of Object.entries(command.positionals)) {
        yargs.positional(name, { type: 'string', describe });
      }
      if (command.example) yargs.example(...command.example);
      return yargs.options(command.flags);
    },
    handler: (argv) => {
      for (const name of Object.keys(command.positionals)) argv[name] = context.literal(argv[name]);
      return context.run((signal) => command.work(argv as Arguments, signal));
    },
  };
}
