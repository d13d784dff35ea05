/** Flags of `node` for the part of a rank's JavaScript heap where objects are born and mostly die. */

const size = '--max-semi-space-size';
const alone = '--no-parallel-scavenge';

/**
 * V8 doubles this part from 1 MiB to 16 as objects survive, and one doubling more or less depends on what
 * was loaded before. JavaScript that makes many small objects (every kernel of TensorFlow.js's cpu backend)
 * writes through all of it again and again: at 8 MiB it ran 10 to 20 percent faster than at 16, alone and
 * on two ranks. Collecting it takes a tenth of a millisecond, and milliseconds where the threads that help
 * have to wait for a core; ranks that take all cores collect without them.
 *
 * @returns none where the user has set the size in NODE_OPTIONS
 */
export function nurseryFlags(ranks: number, cores: number): string[] {
  if (/semi[-_]space/.test(process.env.NODE_OPTIONS ?? '')) return [];
  return [`${size}=8`, ...(ranks >= cores ? [alone] : [])];
}

/** True for a flag of the above: V8's flags belong to a process, and a Worker that is given one throws. */
export function isNurseryFlag(flag: string): boolean {
  return flag === alone || flag.startsWith(`${size}=`);
}
