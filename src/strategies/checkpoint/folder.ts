import { existsSync } from 'node:fs';
import { readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';

/**
 * Names inside a checkpoint directory. A tag folder appears whole, by rename, or not at all; `latest`
 * names the newest. While a tag of the same name is replaced, the old one is kept beside it.
 */
export const latestFile = 'latest';
const temporaryMark = '.writing-';
const previousSuffix = '.previous';

export function temporaryFolder(directory: string, tag: string, nonce: string): string {
  return join(directory, `${tag}${temporaryMark}${nonce}`);
}

/** Throws for a tag that would leave the directory or clash with our own names. */
export function checkTag(tag: string): void {
  const own = tag === latestFile || tag.includes(temporaryMark) || tag.endsWith(previousSuffix);
  if (tag === '' || tag === '.' || tag === '..' || basename(tag) !== tag || own) {
    throw new DeepSpeedError('CHECKPOINT_TAG', `"${tag}" cannot name a checkpoint`, {
      data: { tag },
    });
  }
}

/** Moves a finished temporary folder to its tag. A kill at any point leaves one whole folder to load. */
export async function publish(temporary: string, directory: string, tag: string): Promise<void> {
  const target = join(directory, tag);
  const previous = target + previousSuffix;
  if (existsSync(target)) {
    await rm(previous, { recursive: true, force: true });
    await rename(target, previous);
  }
  await rename(temporary, target);
}

/** After `latest` names the new tag: what it replaced, and what killed runs left half-written, goes. */
export async function sweep(directory: string, tag: string): Promise<void> {
  for (const name of await readdir(directory)) {
    const stale =
      name.includes(temporaryMark) ||
      name === tag + previousSuffix ||
      name.startsWith(`.${latestFile}.tmp-`);
    if (stale) await rm(join(directory, name), { recursive: true, force: true });
  }
}

/** The folder of a tag, or of what it was replacing when a run was killed in between. */
export function tagFolder(directory: string, tag: string): string {
  const folder = join(directory, tag);
  if (existsSync(folder)) return folder;
  const previous = folder + previousSuffix;
  if (existsSync(previous)) return previous;
  throw new DeepSpeedError(
    'CHECKPOINT_NOT_FOUND',
    `there is no checkpoint "${tag}" in ${directory}`,
    {
      data: { directory, tag },
    },
  );
}

/** Reads `latest`; undefined when the directory has no checkpoint. */
export async function latestTag(directory: string): Promise<string | undefined> {
  try {
    return (await readFile(join(directory, latestFile), 'utf8')).trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** `directory` may itself be a tag folder: people paste either. */
export async function locate(
  directory: string,
  tag?: string,
): Promise<{ directory: string; tag: string } | undefined> {
  if (tag !== undefined) return { directory, tag };
  if (existsSync(join(directory, 'manifest.json'))) {
    return { directory: dirname(directory), tag: basename(directory) };
  }
  const latest = await latestTag(directory);
  return latest === undefined ? undefined : { directory, tag: latest };
}
