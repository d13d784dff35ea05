import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inflateSync } from 'node:zlib';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { BlockLayout } from '../strategies/sparse-attention/block-layout.ts';
import { layout } from './layout.ts';
import { layoutPng, layoutSvg } from './layout-picture.ts';

const folder = mkdtempSync(join(tmpdir(), 'layout-'));
afterAll(() => rmSync(folder, { recursive: true }));

const config = join(folder, 'ds_config.json');
writeFileSync(
  config,
  JSON.stringify({
    sparse_attention: {
      mode: 'fixed',
      different_layout_per_head: true,
      num_different_global_patterns: 2,
    },
  }),
);

async function printed(argv: string[]): Promise<string> {
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  try {
    expect(await layout(argv)).toBe(0);
    return write.mock.calls.map(([text]) => String(text)).join('');
  } finally {
    write.mockRestore();
  }
}

/** Colours of a palette PNG as "r,g,b", row by row. */
function decode(png: Buffer): string[][] {
  const chunks = new Map<string, Buffer>();
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    chunks.set(png.toString('latin1', at + 4, at + 8), png.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const header = chunks.get('IHDR')!;
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const rows = inflateSync(chunks.get('IDAT')!);
  expect(rows.length).toBe(height * (width + 1));
  const palette = chunks.get('PLTE')!;
  return Array.from({ length: height }, (_, y) =>
    Array.from({ length: width }, (_, x) => {
      const at = rows[y * (width + 1) + 1 + x]! * 3;
      return [...palette.subarray(at, at + 3)].join();
    }),
  );
}

describe('the picture', () => {
  // Head 0 is the diagonal; head 1 has besides (2, 0), below it, and (0, 3), above it.
  const diagonal = Uint8Array.from({ length: 16 }, (_, i) => (i % 5 === 0 ? 1 : 0));
  const more = diagonal.slice();
  more[2 * 4] = 1;
  more[3] = 1;
  const made = new BlockLayout(16, 4, [diagonal, more, diagonal]);

  it('shows each block of each different head once, in the colour of its meaning', () => {
    const pixels = decode(layoutPng(made, 'title'));
    // 28 px margins, 18 px lines of text, 20 px a block.
    const block = (panel: number, row: number, column: number) =>
      pixels[28 + 36 + row * 20 + 10]![28 + panel * (80 + 28) + column * 20 + 10];
    const [ground, first, second, paleSecond] = [
      '255,255,255',
      '37,99,201',
      '194,87,12',
      '234,196,170',
    ];
    for (const panel of [0, 1]) {
      for (let row = 0; row < 4; row++) {
        for (let column = 0; column < 4; column++) {
          const extra = row === 2 && column === 0 ? second : paleSecond;
          const isExtra = (row === 2 && column === 0) || (row === 0 && column === 3);
          const expected = row === column ? first : panel === 1 && isExtra ? extra : ground;
          expect(block(panel, row, column), `${panel} ${row} ${column}`).toBe(expected);
        }
      }
    }
  });

  it('is an SVG of the same marks, with the heads named', () => {
    const svg = layoutSvg(made, 'a <title>');
    expect(svg).toContain('a &lt;title&gt;');
    expect(svg).toContain('heads 0, 2<');
    expect(svg).toContain('head 1<');
    const rects = svg.match(/<rect x="[^"]*" y="[^"]*" width="20" height="20"/g) ?? [];
    expect(rects).toHaveLength(4 + 6);
  });
});

describe('deepspeed-js layout', () => {
  it('prints the numbers and writes both kinds of picture', async () => {
    for (const kind of ['png', 'svg']) {
      const out = join(folder, `layout.${kind}`);
      const text = await printed([
        ...['--deepspeed', config, '--seq', '128', '--heads', '3', '--out', out],
      ]);
      expect(text).toContain('8 x 8 blocks of 16, 3 heads with 2 different layouts');
      // Two windows of 4 x 4, and one global column each in the other window, in every head.
      expect(text).toContain('blocks computed: 120 of 192 (62.5%)');
      expect(readFileSync(out).subarray(0, 4).toString('latin1')).toBe(
        kind === 'png' ? '\x89PNG' : '<svg',
      );
    }
  });

  it('says which layout it draws: that of a run is made for the longest sequence', async () => {
    const argv = ['--deepspeed', config, '--seq', '96', '--heads', '3'];
    expect(await printed(argv)).toContain('the layout for 96 positions; a run that allows longer');
    const model = join(folder, 'model');
    mkdirSync(model);
    const fields = { model_type: 'gpt2', vocab_size: 9, n_embd: 6, n_layer: 1, n_head: 3 };
    writeFileSync(join(model, 'config.json'), JSON.stringify({ ...fields, n_positions: 128 }));
    const cut = await printed([...argv, '--model', model]);
    expect(cut).toContain('the first 96 positions of the layout for 128');
    // Of windows of 4 and 2 blocks: those of its own end have a global column besides, which the cut one has not.
    expect(cut).not.toContain((await printed(argv)).match(/blocks computed: .*/)![0]);
    const limited = join(folder, 'limited.json');
    writeFileSync(limited, JSON.stringify({ sparse_attention: { max_seq_length: 64 } }));
    await expect(layout(['--deepspeed', limited, '--seq', '96'])).rejects.toMatchObject({
      code: 'LAYOUT_INVALID',
      message: expect.stringContaining('sparse_attention.max_seq_length'),
    });
  });

  it.each([
    [['--deepspeed', config], 'LAUNCHER_USAGE', '--seq'],
    [['--deepspeed', config, '--seq', '64', '--out', 'a.gif'], 'LAUNCHER_USAGE', '.png or .svg'],
    [['--deepspeed', config, '--seq', '100'], 'LAYOUT_INVALID', 'sparse_attention.block'],
    [['--deepspeed', join(folder, 'none.json'), '--seq', '64'], 'CONFIG_NOT_FOUND', 'none.json'],
    [['--deepspeed', config, '--seq', '10000000'], 'LAUNCHER_USAGE', '625000 blocks of 16'],
    [
      ['--deepspeed', config, '--seq', '64', '--out', join(folder, 'none', 'x.svg')],
      'OUTPUT_NOT_WRITABLE',
      'x.svg cannot be written',
    ],
  ])('%j is an error', async (argv, code, words) => {
    await expect(layout(argv)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(words),
    });
  });

  it('says that a config without the section is dense', async () => {
    const plain = join(folder, 'plain.json');
    writeFileSync(plain, '{}');
    await expect(layout(['--deepspeed', plain, '--seq', '64'])).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('dense'),
    });
  });
});
