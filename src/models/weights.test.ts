import { copyFile, mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { numel, toNumbers } from '../graph/tensor.ts';
import { modelParameters } from './config.ts';
import { arraySource, type ParameterSource, tensorSource } from './parameter-source.ts';
import { loadPretrained } from './pretrained.ts';
import { SafetensorsFile } from './safetensors.ts';
import { type TensorToWrite, writeSafetensors } from './safetensors-write.ts';
import { saveParameters } from './save.ts';
import { goldenCases, goldenDir, loadGolden } from './testing/goldens.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dsjs-weights-'));
});
afterEach(() => rm(dir, { recursive: true }));

/** All values of a model folder, read through `loadPretrained`. */
async function readFolder(folder: string): Promise<Map<string, number[]>> {
  const model = await loadPretrained(folder);
  const values = [...model.parameters].map(([name, source]): [string, number[]] => [
    name,
    Array.from(source.read()),
  ]);
  model.close();
  return new Map(values);
}

function sources(name: string): Map<string, ParameterSource> {
  return new Map(
    [...loadGolden(name).parameters].map(([key, tensor]) => [key, tensorSource(tensor)]),
  );
}

const float32 = (name: string, values: number[]): TensorToWrite => ({
  name,
  dtype: 'float32',
  shape: [values.length],
  chunks: () => [new Uint8Array(Float32Array.from(values).buffer)],
});

describe.each(goldenCases)('weights of %s', (name) => {
  it('are read as PyTorch wrote them, and written back the same', async () => {
    const golden = loadGolden(name);
    const read = await readFolder(golden.dir);
    for (const [key, tensor] of golden.parameters) expect(read.get(key)).toEqual(toNumbers(tensor));
    expect([...read.keys()]).toEqual(modelParameters(golden.config).map((spec) => spec.name));

    await saveParameters(dir, golden.config, sources(name));
    expect(await readFolder(dir)).toEqual(read);
    const config = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8'));
    expect(config).toEqual(golden.config.json);
  });

  it('are split into shards with an index', async () => {
    const golden = loadGolden(name);
    await saveParameters(dir, golden.config, sources(name), { maxShardBytes: 20_000 });
    const files = (await readdir(dir)).filter((file) => file.endsWith('.safetensors'));
    expect(files.length).toBeGreaterThan(2);
    expect(await readFolder(dir)).toEqual(await readFolder(golden.dir));
  });
});

it('take the place of the weights that the folder has had, and of nothing else', async () => {
  const [older, newer] = [sources('gpt2'), sources('gpt2')];
  for (const [key, { shape }] of newer) {
    newer.set(key, arraySource(shape, new Float32Array(numel(shape)).fill(3)));
  }
  const { config } = loadGolden('gpt2');
  const shown = async () => (await readFolder(dir)).values().next().value!.slice(0, 2);
  const kept = ['model-00001-of-00099.safetensors', 'model.safetensors.bak'];
  for (const name of kept) await writeFile(join(dir, name), 'not of these weights');
  const [none, few, many] = [{}, { maxShardBytes: 40_000 }, { maxShardBytes: 10_000 }];
  for (const [before, after] of [
    [none, few],
    [few, none],
    [many, few],
    [few, many],
  ] as const) {
    await saveParameters(dir, config, older, before);
    await saveParameters(dir, config, newer, after);
    expect(await shown()).toEqual([3, 3]);
    const index = join(dir, 'model.safetensors.index.json');
    const expected =
      after === none
        ? ['model.safetensors']
        : [
            ...Object.values<string>(JSON.parse(await readFile(index, 'utf8')).weight_map),
            'model.safetensors.index.json',
          ];
    expect(new Set(await readdir(dir))).toEqual(new Set([...expected, ...kept, 'config.json']));
  }
});

it('reads ranges, and stores half precision to rounding', async () => {
  const golden = loadGolden('gpt2');
  for (const [dtype, relative] of [
    ['float16', 2 ** -11],
    ['bfloat16', 2 ** -8],
  ] as const) {
    await saveParameters(dir, golden.config, sources('gpt2'), { dtype });
    const model = await loadPretrained(dir);
    for (const [name, source] of model.parameters) {
      const exact = toNumbers(golden.parameters.get(name)!);
      Array.from(source.read(3, 17)).forEach((value, i) => {
        // Below 2^-14 float16 has a fixed step of 2^-24.
        expect(Math.abs(value - exact[i + 3]!)).toBeLessThanOrEqual(
          Math.max(Math.abs(exact[i + 3]!) * relative, 2 ** -25),
        );
      });
    }
    model.close();
  }
});

it('takes names without prefix, saved buffers, and a head that is tied anyway', async () => {
  const golden = loadGolden('gpt2');
  const bare = [...golden.parameters].map(([name, { dims, data }]) => ({
    name: name.replace('transformer.', ''),
    dtype: 'float32' as const,
    shape: dims,
    chunks: () => [data],
  }));
  const head = { ...bare.find((tensor) => tensor.name === 'wte.weight')!, name: 'lm_head.weight' };
  await writeSafetensors(join(dir, 'model.safetensors'), [
    ...bare,
    head,
    float32('h.0.attn.bias', [1, 2]),
    float32('h.1.attn.masked_bias', [1]),
  ]);
  await copyFile(join(golden.dir, 'config.json'), join(dir, 'config.json'));
  expect(await readFolder(dir)).toEqual(await readFolder(golden.dir));
});

it('lists everything that does not fit in one error', async () => {
  const golden = loadGolden('gpt2');
  const tensors = [...golden.parameters]
    .filter(([name]) => name !== 'transformer.ln_f.bias')
    .map(([name, { dims, data }]) => ({
      name,
      dtype: 'float32' as const,
      shape: name === 'transformer.wpe.weight' ? [dims[1]!, dims[0]!] : dims,
      chunks: () => [data],
    }));
  await writeSafetensors(join(dir, 'model.safetensors'), [...tensors, float32('adapter', [1])]);
  await copyFile(join(golden.dir, 'config.json'), join(dir, 'config.json'));
  const error = await loadPretrained(dir).catch((e: Error) => e);
  expect(error).toMatchObject({
    code: 'WEIGHTS_MISMATCH',
    data: {
      problems: [
        'adapter: not a parameter of this model',
        "transformer.wpe.weight: has shape [24,32], the model's is [32,24]",
        'transformer.ln_f.bias: missing',
      ],
    },
  });
});

describe('safetensors', () => {
  const header = (json: string, data = 0) => {
    const bytes = Buffer.alloc(8 + json.length + data);
    bytes.writeBigUInt64LE(BigInt(json.length));
    bytes.write(json, 8);
    return bytes;
  };
  const one = (fields: object, data = 4) => header(JSON.stringify({ a: fields }), data);

  it.each([
    ['empty', Buffer.alloc(0), /0 bytes/],
    ['a header longer than the file', Buffer.from('ffffffffffffff00', 'hex'), /header of/],
    ['not JSON', header('{nope'), /not JSON/],
    ['an unknown type', one({ dtype: 'F4', shape: [1], data_offsets: [0, 4] }), /F4/],
    ['a wrong size', one({ dtype: 'F32', shape: [2], data_offsets: [0, 4] }), /needs 8 bytes/],
    ['a negative shape', one({ dtype: 'F32', shape: [-1], data_offsets: [0, 4] }), /malformed/],
    ['a truncated file', one({ dtype: 'F32', shape: [1], data_offsets: [0, 4] }, 2), /truncated/],
    ['a hole', one({ dtype: 'F32', shape: [1], data_offsets: [4, 8] }, 8), /hole/],
    [
      'an overlap',
      header(
        JSON.stringify({
          a: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
          b: { dtype: 'F32', shape: [1], data_offsets: [4, 8] },
        }),
        8,
      ),
      /overlaps/,
    ],
  ])('refuses %s', async (_, bytes, message) => {
    const path = join(dir, 'bad.safetensors');
    await writeFile(path, bytes);
    expect(() => new SafetensorsFile(path)).toThrow(message);
    expect(() => new SafetensorsFile(path)).toThrow(
      expect.objectContaining({ code: 'WEIGHTS_INVALID' }),
    );
  });

  it('holds empty tensors and metadata', async () => {
    const path = join(dir, 'a.safetensors');
    await writeSafetensors(path, [float32('none', []), float32('some', [1, 2, 3])], { k: 'v' });
    const file = new SafetensorsFile(path);
    expect(file.metadata).toEqual({ k: 'v' });
    expect(file.readBytes('none')).toHaveLength(0);
    expect(new Float32Array(file.readBytes('some', 1, 1).buffer)).toEqual(Float32Array.of(2));
    expect(() => file.readBytes('some', 2, 2)).toThrow(/3 elements/);
    file.close();
  });

  it('reads beyond 4 GiB', async () => {
    const path = join(dir, 'large.safetensors');
    const bytes = 4 * 2 ** 30 + 64;
    const json = JSON.stringify({
      a: { dtype: 'U8', shape: [bytes], data_offsets: [0, bytes] },
      b: { dtype: 'F32', shape: [2], data_offsets: [bytes, bytes + 8] },
    });
    // A hole in the file stands for the large tensor: nothing of it is stored.
    const file = await open(path, 'w');
    await file.write(header(json));
    await file.write(Float32Array.of(1, 2), 0, 8, 8 + json.length + bytes);
    await file.close();
    const large = new SafetensorsFile(path);
    expect(new Float32Array(large.readBytes('b').buffer)).toEqual(Float32Array.of(1, 2));
    expect(large.readBytes('a', bytes - 3)).toEqual(new Uint8Array(3));
    large.close();
  });

  it('leaves nothing behind when writing fails', async () => {
    const broken = { ...float32('a', [1]), shape: [2] };
    await expect(writeSafetensors(join(dir, 'a'), [broken])).rejects.toThrow(/needs 8/);
    await expect(writeSafetensors(join(dir, 'no/where'), [])).rejects.toMatchObject({
      code: 'OUTPUT_NOT_WRITABLE',
    });
    expect(await readdir(dir)).toEqual([]);
  });
});

it('refuses to save parameters of another shape', async () => {
  const { config } = loadGolden('gpt2');
  const wrong = sources('gpt2').set('transformer.ln_f.bias', arraySource([2], new Float32Array(2)));
  await expect(saveParameters(dir, config, wrong)).rejects.toThrow(/ln_f.bias \[24\].*\[2\]/);
  expect(await readdir(dir)).toEqual([]);
});

it('names what a folder lacks', async () => {
  await expect(loadPretrained(dir)).rejects.toThrow(/config.json cannot be read/);
  await copyFile(join(goldenDir('gpt2'), 'config.json'), join(dir, 'config.json'));
  await writeFile(join(dir, 'pytorch_model.bin'), '');
  await expect(loadPretrained(dir)).rejects.toThrow(/no model.safetensors, only pytorch_model.bin/);
});
