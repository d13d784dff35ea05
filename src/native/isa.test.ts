import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { loadAddon } from './load.ts';

/** What a process of its own finds under a forced instruction set. */
function probe(isa: string): { isa?: string[]; digest?: number; error?: string } {
  const script = `
    import { loadAddon } from ${JSON.stringify(new URL('./load.ts', import.meta.url).href)};
    try {
      const addon = loadAddon();
      const source = Float32Array.from({ length: 1001 }, (_, i) => Math.sin(i) * 10 ** (i % 9 - 4));
      const target = new Uint8Array(2 * source.length);
      addon.convert(new Uint8Array(source.buffer), 'float32', target, 'float16');
      console.log(JSON.stringify({ isa: addon.info().isa, digest: addon.crc32c(target) }));
    } catch (error) {
      console.log(JSON.stringify({ error: error.message }));
    }`;
  const child = spawnSync(
    process.execPath,
    ['--import', import.meta.resolve('tsx'), '--input-type=module', '-e', script],
    { encoding: 'utf8', env: { ...process.env, DEEPSPEED_JS_ISA: isa } },
  );
  if (child.status !== 0) throw new Error(child.stderr);
  return JSON.parse(child.stdout);
}

describe('DEEPSPEED_JS_ISA', () => {
  const available = loadAddon().info().isa;

  it('forces each instruction set of this processor, with the same conversions', () => {
    const digests = new Set<number | undefined>();
    for (const isa of available) {
      const found = probe(isa);
      expect(found.isa?.[0]).toBe(isa);
      digests.add(found.digest);
    }
    expect(digests.size).toBe(1);
  });

  it('refuses a name that is not available, listing those that are', () => {
    expect(probe('mmx').error).toMatch(/"mmx".*portable/);
  });
});
