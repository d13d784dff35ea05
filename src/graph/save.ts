/** Writing a model file: complete or not at all, large ones with their tensors in a second file. */
import { open, rename, rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import type { ExternalPlaces } from './codec/encode-graph.ts';
import { encodeModelChunks } from './codec/model.ts';
import type { Model, Tensor } from './ir.ts';

export interface SaveOptions {
  /** Initializers in `<file>_data` beside the model. Unless told: when they exceed 1 GiB together. */
  externalData?: boolean;
}

const externalFrom = 2 ** 30;

/** Runtimes map external tensors into memory page by page, and small ones are better inside. */
const page = 4096;

/**
 * Writes `path` (and `path` + `_data`, the name that transformers.js looks for). Files get a temporary
 * name and are renamed when they are complete on disk. Throws MODEL_TOO_LARGE before anything is
 * written, MODEL_FILE_UNREADABLE when the disk refuses.
 */
export async function saveModel(
  model: Model,
  path: string,
  options: SaveOptions = {},
): Promise<void> {
  const tensors = [...model.graph.initializers.values()];
  const bytes = tensors.reduce((total, tensor) => total + tensor.data.length, 0);
  const external = options.externalData ?? bytes > externalFrom;
  const places = external ? placeTensors(tensors, `${basename(path)}_data`) : new Map();
  const chunks = encodeModelChunks(model, places);
  // The data first: a model file that is there always finds its data.
  const files: [string, Iterable<Uint8Array>][] = [[path, chunks]];
  if (places.size > 0) files.unshift([`${path}_data`, externalChunks(places)]);
  const temporary = (name: string) => `${name}.tmp-${process.pid}`;
  try {
    for (const [name, content] of files) await writeFully(temporary(name), content);
    for (const [name] of files) await rename(temporary(name), name);
  } catch (cause) {
    for (const [name] of files) await rm(temporary(name), { force: true });
    throw new DeepSpeedError(
      'MODEL_FILE_UNREADABLE',
      `cannot write the model ${path}: ${(cause as Error).message}`,
      { cause, fix: 'Check that the folder exists, is writable and has room.' },
    );
  }
}

function placeTensors(tensors: readonly Tensor[], location: string): ExternalPlaces {
  const places = new Map<Tensor, { location: string; offset: number }>();
  let end = 0;
  for (const tensor of tensors) {
    if (tensor.dtype === 'string' || tensor.data.length < page || places.has(tensor)) continue;
    const offset = Math.ceil(end / page) * page;
    places.set(tensor, { location, offset });
    end = offset + tensor.data.length;
  }
  return places;
}

function* externalChunks(places: ExternalPlaces): Generator<Uint8Array> {
  let at = 0;
  for (const [tensor, { offset }] of places) {
    if (offset > at) yield new Uint8Array(offset - at);
    yield tensor.data;
    at = offset + tensor.data.length;
  }
}

async function writeFully(path: string, content: Iterable<Uint8Array>): Promise<void> {
  const file = await open(path, 'w');
  try {
    for (const chunk of content) await file.writeFile(chunk);
    await file.sync();
  } finally {
    await file.close();
  }
}
