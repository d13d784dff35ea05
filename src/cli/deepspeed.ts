#!/usr/bin/env node
/** `deepspeed` and `deepspeed-js`: launches a script on several ranks, or runs a subcommand. */
import { launch } from '../launcher/index.ts';
import { parseLine } from './arguments.ts';
import { check } from './check.ts';
import { runCommand } from './fail.ts';
import { estimate } from './estimate.ts';
import { layout } from './layout.ts';
import { report } from './report.ts';
import { zeroToFp32 } from './zero-to-fp32.ts';

/** Words in the place of the script that are commands of their own. */
const subcommands: Record<string, (argv: string[]) => Promise<number>> = {
  check,
  estimate,
  layout,
  report,
  zero_to_fp32: zeroToFp32,
};

const argv = process.argv.slice(2);
const subcommand = Object.hasOwn(subcommands, argv[0] ?? '') ? subcommands[argv[0]!] : undefined;
await runCommand('deepspeed', () => (subcommand ? subcommand(argv.slice(1)) : run(argv)));

async function run(words: string[]): Promise<number> {
  const line = parseLine(words);
  if (line === null) return 0;
  if (!line.options.quiet)
    for (const note of line.notes) process.stderr.write(`deepspeed: ${note}\n`);
  return launch(line.options);
}
