/** The package as it is built: processes start from it in a quarter of the time that sources take. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { buildId, root } from '../scripts/build-id.mjs';

const timeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

/** @throws when the engine in `prebuilds` was built from other sources than those in `addon` */
function currentEngine(): void {
  const stamp = join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'build-id');
  if (process.env.DEEPSPEED_JS_ADDON || !existsSync(stamp)) return;
  if (readFileSync(stamp, 'utf8') !== buildId())
    throw new Error('the engine was built from other sources than addon holds: npm run build');
}

/**
 * The folder `dist`.
 *
 * @throws when it is older than `src`, or the engine than `addon`: a test or a figure would be of what is
 *   no longer there
 */
export function built(): string {
  currentEngine();
  const dist = join(root, 'dist');
  const time = timeOf(join(dist, 'index.js'));
  const newer = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !/testing|\.(test|case|fixture)\.ts$/.test(name))
    .find((name) => timeOf(join(root, 'src', name)) > time);
  if (newer) throw new Error(`src/${newer} is newer than dist: npm run build:ts`);
  return dist;
}
