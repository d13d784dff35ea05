import { readFile, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeFolder } from '../../folders.ts';
import { DeepSpeedError } from '../../errors.ts';
import type { IoHandler } from './library.ts';

interface WeightGroup {
  paths: string[];
  weights: unknown[];
}

/**
 * `file://folder` for saving, `file://folder/model.json` for loading: model.json and weights.bin, as
 * tfjs-node and the browser's downloads write them.
 */
export class FileHandler implements IoHandler {
  readonly #path: string;

  constructor(url: string) {
    // tfjs-node takes relative paths, too, which are no valid URLs.
    const rest = url.slice('file://'.length);
    this.#path = rest.startsWith('/') ? fileURLToPath(url) : rest;
  }

  async save(artifacts: Record<string, unknown>): Promise<unknown> {
    const { weightData, weightSpecs, ...rest } = artifacts;
    const weights = concatenate(weightData);
    const json = JSON.stringify({
      ...rest,
      weightsManifest: [{ paths: ['weights.bin'], weights: weightSpecs }],
    });
    try {
      makeFolder(this.#path);
      await replaceFile(join(this.#path, 'weights.bin'), weights);
      await replaceFile(join(this.#path, 'model.json'), json);
    } catch (cause) {
      throw new DeepSpeedError(
        'OUTPUT_NOT_WRITABLE',
        `cannot save the model in ${this.#path}: ${(cause as Error).message}`,
        { cause },
      );
    }
    return {
      modelArtifactsInfo: {
        dateSaved: new Date(),
        modelTopologyType: 'JSON',
        modelTopologyBytes: Buffer.byteLength(JSON.stringify(artifacts.modelTopology) ?? ''),
        weightSpecsBytes: Buffer.byteLength(JSON.stringify(weightSpecs) ?? ''),
        weightDataBytes: weights.byteLength,
      },
    };
  }

  async load(): Promise<unknown> {
    try {
      const { weightsManifest, ...rest } = JSON.parse(await readFile(this.#path, 'utf8')) as {
        weightsManifest: WeightGroup[];
      };
      const folder = dirname(this.#path);
      const paths = weightsManifest.flatMap((group) => group.paths);
      const parts = await Promise.all(paths.map((path) => readFile(join(folder, path))));
      const whole = Buffer.concat(parts);
      return {
        ...rest,
        weightSpecs: weightsManifest.flatMap((group) => group.weights),
        weightData: whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.byteLength),
      };
    } catch (cause) {
      throw new DeepSpeedError(
        'MODEL_FILE_UNREADABLE',
        `cannot load the model ${this.#path}: ${(cause as Error).message}`,
        { fix: 'Give the path of model.json: file://folder/model.json.', cause },
      );
    }
  }
}

/** Weights come as one buffer or as a list of them. */
function concatenate(data: unknown): Buffer {
  const list = (Array.isArray(data) ? data : [data ?? new ArrayBuffer(0)]) as ArrayBuffer[];
  return Buffer.concat(list.map((one) => Buffer.from(one)));
}

async function replaceFile(path: string, data: string | Buffer): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  await writeFile(temporary, data);
  await rename(temporary, path);
}
