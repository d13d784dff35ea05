#!/usr/bin/env node
/** `ds_report`: the environment, and what a DeepSpeed config comes to. */
import { runCommand } from './fail.ts';
import { report } from './report.ts';

await runCommand('ds_report', () => report(process.argv.slice(2)));
