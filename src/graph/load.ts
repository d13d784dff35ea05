/** Reading a model file, with the external data that lies beside it. */
import { open, readFile, stat } from 'node:fs/promises';
import { dirname, isAbsolute, relative, resolve } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import type { ExternalTensor } from './codec/decode-tensor.ts';
import { decodeModelParts, maxModelBytes } from './codec/model.ts';
import type { Model } from './ir.ts';

/**
 * Reads an ONNX model. Throws MODEL_FILE_UNREADABLE (also for external data that is missing, too short
 * or outside the model's folder), MODEL_FILE_INVALID, GRAPH_INVALID, NOT_AVAILABLE_YET.
 */
export async function loadModel(path: string): Promise<Model> {
  const bytes = await readModelFile(path);
  const { model, external } = decodeFile(path, bytes);
  for (const location of new Set(external.map((tensor) => tensor.location))) {
    const tensors = external.filter((tensor) => tensor.location === location);
    await readExternal(dirname(path), location, tensors);
  }
  return model;
}

/** The decoder sees bytes only; its fault is told with the name of the file. */
function decodeFile(path: string, bytes: Uint8Array): ReturnType<typeof decodeModelParts> {
  try {
    return decodeModelParts(bytes);
  } catch (cause) {
    if (!(cause instanceof DeepSpeedError)) throw cause;
    const { code, message, fix, data } = cause;
    throw new DeepSpeedError(code, `${path}: ${message}`, { cause, fix, data });
  }
}

async function readModelFile(path: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(path);
    if (size > maxModelBytes) {
      throw new DeepSpeedError(
        'MODEL_TOO_LARGE',
        `${path} has ${size} bytes; an ONNX file holds at most ${maxModelBytes}`,
        { fix: 'Save the model with external data.' },
      );
    }
    const file = await readFile(path);
    return new Uint8Array(file.buffer, file.byteOffset, file.byteLength);
  } catch (cause) {
    if (cause instanceof DeepSpeedError) throw cause;
    throw unreadable(`cannot read the model ${path}: ${(cause as Error).message}`, cause);
  }
}

async function readExternal(
  folder: string,
  location: string,
  tensors: readonly ExternalTensor[],
): Promise<void> {
  const path = resolve(folder, location);
  // A model must not be able to read files elsewhere on the machine.
  const inside = relative(resolve(folder), path);
  if (isAbsolute(location) || isAbsolute(inside) || inside.startsWith('..')) {
    throw unreadable(`external data '${location}' lies outside the model's folder`);
  }
  const file = await open(path).catch((cause: Error) => {
    throw unreadable(`cannot read external data ${path}: ${cause.message}`, cause);
  });
  try {
    const { size } = await file.stat();
    for (const { tensor, name, offset, length } of tensors) {
      if (offset + length > size) {
        throw unreadable(
          `tensor '${name}' takes bytes ${offset} to ${offset + length} of ${path}, which has ${size}`,
        );
      }
      tensor.data = new Uint8Array(length);
      await readFully(file, tensor.data, offset, path);
    }
  } finally {
    await file.close();
  }
}

/** One read returns at most 2 GiB, and may return less than asked. */
async function readFully(
  file: Awaited<ReturnType<typeof open>>,
  target: Uint8Array,
  offset: number,
  path: string,
): Promise<void> {
  const step = 2 ** 30;
  for (let done = 0; done < target.length; ) {
    const length = Math.min(step, target.length - done);
    const { bytesRead } = await file.read(target, done, length, offset + done);
    if (bytesRead === 0) throw unreadable(`${path} became shorter while it was read`);
    done += bytesRead;
  }
}

function unreadable(message: string, cause?: unknown): DeepSpeedError {
  return new DeepSpeedError('MODEL_FILE_UNREADABLE', message, { cause });
}
