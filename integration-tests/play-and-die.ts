import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { built } from './built.ts';
import type { Scenario } from './fixtures/training/scenario.ts';
import { temporaryFolder } from './training.ranks.ts';

built();
const script = fileURLToPath(new URL('fixtures/training/train.mjs', import.meta.url));

/** Trains in a process of its own, which dies at the n-th numbered point of writing that it passes. */
export function playAndDie(scenario: Scenario, faultPoint: number): NodeJS.Signals | null {
  const file = join(temporaryFolder(), 'scenario.json');
  writeFileSync(file, JSON.stringify(scenario));
  const { status, signal, stderr } = spawnSync(process.execPath, [script, file], {
    env: { ...process.env, DEEPSPEED_JS_FAULT_POINT: String(faultPoint) },
    encoding: 'utf8',
  });
  if (signal === null && status !== 0) throw new Error(stderr);
  return signal;
}
