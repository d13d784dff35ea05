/** Runs bench/ranks/tfjs-train.cjs, alone or over ranks. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { median } from '../lib.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const script = `${root}bench/ranks/tfjs-train.cjs`;

/**
 * Median seconds of an epoch.
 *
 * @param ranks null: plain node
 * @param samples of an epoch of four batches
 */
export async function epochSeconds(
  backend: 'cpu' | 'wasm',
  epochs: number,
  ranks: number | null,
  samples = 256,
): Promise<number> {
  // As users have it: built, no loader of TypeScript in the ranks.
  const launcher = [`${root}dist/cli/deepspeed.js`, '-q', '--num_procs', `${ranks}`];
  const own = [script, backend, String(epochs), String(samples)];
  const words = [...(ranks === null ? [] : launcher), ...own];
  const { stdout } = await promisify(execFile)(process.execPath, words, { cwd: root });
  const { seconds } = JSON.parse(stdout.trim().split('\n').at(-1)!) as { seconds: number[] };
  return median(seconds);
}
