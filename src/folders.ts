import { existsSync, mkdirSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/**
 * Makes a folder and the ones above it that are missing; one that is there already is well.
 *
 * Node's own recursive mkdir never returns where a file system answers ENOENT to a folder that has a
 * parent (/proc, some network mounts): it goes up, finds the parent and comes back for ever. Here each
 * missing folder is tried once.
 *
 * @throws the system's error (ENOENT, EACCES, ENOSPC, EEXIST where a file has that name ...)
 */
export function makeFolder(path: string): void {
  const missing: string[] = [];
  let above = resolve(path);
  for (; !existsSync(above); above = dirname(above)) missing.unshift(above);
  if (missing.length === 0 && !statSync(above).isDirectory()) mkdirSync(above); // EEXIST, in its words
  for (const folder of missing) {
    try {
      mkdirSync(folder);
    } catch (error) {
      // Another rank may have been quicker.
      if (!existsSync(folder) || !statSync(folder).isDirectory()) throw error;
    }
  }
}
