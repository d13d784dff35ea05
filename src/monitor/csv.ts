/**
 * DeepSpeed's CSV layout: `<output_path>/<job_name>/Train_Samples_train_loss.csv`, one file per event
 * name, columns `step` and the last part of the name.
 */
import {
  appendFileSync,
  existsSync,
  fsyncSync,
  openSync,
  closeSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Monitor, MonitorFolder } from './events.ts';
import { makeOutputFolder, writing } from './output-folder.ts';

/**
 * @param resumeAt the step training continues from: rows of later steps are dropped, since they
 *   will be written again. Absent, a new run: an earlier run's file is kept as `<name>.previous.csv`.
 */
export function csvMonitor(folder: MonitorFolder, resumeAt?: number): Monitor {
  const directory = makeOutputFolder(folder);
  const paths = new Map<string, string>();

  function pathOf(name: string): string {
    const known = paths.get(name);
    if (known !== undefined) return known;
    const stem = join(directory, name.replace(/[/ ]/g, '_'));
    const path = `${stem}.csv`;
    const header = `step,${name.split('/').at(-1)}\n`;
    writing(path, () => {
      const earlier = existsSync(path);
      if (earlier && resumeAt === undefined) renameSync(path, `${stem}.previous.csv`);
      const kept = earlier && resumeAt !== undefined ? rowsUpTo(path, resumeAt) : [];
      writeFileSync(path, header + kept.join(''));
    });
    paths.set(name, path);
    return path;
  }

  return {
    get files() {
      return [...paths.values()];
    },
    writeEvents: (events) => {
      const rows = new Map<string, string>();
      for (const { name, step, value } of events)
        rows.set(name, `${rows.get(name) ?? ''}${step},${value}\n`);
      for (const [name, text] of rows) {
        const path = pathOf(name);
        writing(path, () => appendFileSync(path, text));
      }
    },
    flush: () => {
      for (const path of paths.values()) writing(path, () => syncFile(path));
    },
    close: () => {},
  };
}

/** Data rows with a step of at most `last`; a row that a kill cut off has no line end and is dropped. */
function rowsUpTo(path: string, last: number): string[] {
  const lines = readFileSync(path, 'utf8').match(/[^\n]*\n/g) ?? [];
  return lines.slice(1).filter((line) => Number.parseFloat(line) <= last);
}

function syncFile(path: string): void {
  const descriptor = openSync(path, 'r+');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
