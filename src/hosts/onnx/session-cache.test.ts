import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../graph/index.ts';
import type { NativeEngine } from '../../native/index.ts';
import { SessionCache } from './program.ts';

function identityGraph() {
  const b = new GraphBuilder('identity');
  b.output(b.op('Identity', [b.input('x', 'float32', [1])]), 'float32', [1]);
  return b.build();
}

describe('SessionCache', () => {
  it('compiles a graph once and frees it with its last user', () => {
    const live = new Set<number>();
    let made = 0;
    const engine = {
      loadSession: () => {
        live.add(++made);
        return made;
      },
      releaseSession: (session: number) => live.delete(session),
    } as unknown as NativeEngine;
    const cache = new SessionCache(engine);
    const first = cache.take('layer', identityGraph());
    expect(cache.take('layer', identityGraph())).toBe(first);
    cache.take('head', identityGraph());
    expect(live.size).toBe(2);
    cache.giveBack('layer');
    expect(live).toContain(first);
    cache.giveBack('layer');
    expect(live).not.toContain(first);
    expect(cache.take('layer', identityGraph())).not.toBe(first);
  });
});
