// Which room may import which (the map is in docs/internals.md). Tests and benches may import anything.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { root } from './build-id.mjs';

const shared = ['errors', 'folders', 'nearest', 'philox'];
const rooms = {
  errors: [],
  folders: [],
  nearest: [],
  philox: [],
  'errors-page': ['native'],
  config: [],
  graph: [],
  models: ['graph'],
  native: ['graph'],
  schedules: ['config'],
  monitor: ['native'],
  launcher: ['config', 'native', 'monitor'],
  cli: ['launcher', 'config', 'native', 'monitor', 'models', 'trainer', 'strategies'],
  hooks: ['native'],
  layout: ['hooks', 'native'],
  strategies: ['hooks', 'config', 'schedules', 'native', 'layout'],
  runtime: ['native', 'launcher'],
  session: ['runtime', 'config', 'hooks', 'native', 'layout', 'strategies', 'launcher'],
  // tfjs and loop compose their own sessions, as `trainer` does for onnx: config and strategies, too.
  hosts: [
    'hooks',
    'graph',
    'models',
    'native',
    'layout',
    'runtime',
    'session',
    'config',
    'schedules',
    'strategies',
    'launcher',
  ],
  trainer: [
    'hosts',
    'session',
    'runtime',
    'strategies',
    'config',
    'schedules',
    'monitor',
    'models',
    'hooks',
    'native',
    'graph',
    'layout',
  ],
  index: ['config', 'hooks', 'hosts', 'launcher', 'native', 'strategies'],
  transformers: ['trainer', 'hosts', 'models'],
  tfjs: ['hosts', 'launcher'],
};
/** A package that only these rooms may load. */
const packages = {
  tapable: ['hooks'],
  zod: ['config', 'strategies', 'trainer', 'hosts'],
  hjson: ['config'],
  'cli-progress': ['monitor'],
  commander: ['cli'],
  'onnxruntime-node': [],
  '@huggingface/transformers': [],
};

const source = join(root, 'src');
const roomOf = (path) => relative(source, path).split(sep)[0].replace(/\.ts$/, '');

function* files(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (entry.name !== 'testing') yield* files(path);
    } else if (/\.ts$/.test(entry.name) && !/\.(test|case)\.ts$|testing\.ts$/.test(entry.name))
      yield path;
  }
}

const problems = [];
for (const path of files(source)) {
  const room = roomOf(path);
  const allowed = rooms[room];
  const where = relative(root, path);
  if (!allowed) {
    problems.push(`${where}: room "${room}" is not on the map in scripts/check-imports.mjs`);
    continue;
  }
  for (const [, target] of readFileSync(path, 'utf8').matchAll(
    /(?:from|import)\s*\(?\s*'([^']+)'/g,
  )) {
    if (target.startsWith('.')) {
      const other = roomOf(resolve(dirname(path), target));
      if (other === room || shared.includes(other) || allowed.includes(other)) continue;
      if (other.startsWith('..')) continue;
      problems.push(`${where} imports ${target}: ${room} may not import ${other}`);
    } else if (target in packages && !packages[target].includes(room)) {
      problems.push(
        `${where} imports ${target}: only ${packages[target].join(', ') || 'nobody'} may`,
      );
    }
    if (target.endsWith('.node') && room !== 'native') problems.push(`${where} loads ${target}`);
  }
}
for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exit(1);
