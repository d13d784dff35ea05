/**
 * Node processes that a rank's script starts by `spawn`, `exec` or through another program. Unlike forks they
 * do not get the rank's flags, but they inherit its environment: NODE_OPTIONS loads the module into them that
 * names a process which trains and is no rank.
 */

/** Of this process's children. Not from sources: a child has no loader of TypeScript. */
export function nameTrainingChildren(environment: NodeJS.ProcessEnv): void {
  if (flag === null) return;
  environment.NODE_OPTIONS = [environment.NODE_OPTIONS, flag].filter(Boolean).join(' ');
}

/** For a launcher that a rank has started: its ranks are ranks. */
export function withoutBystander(environment: NodeJS.ProcessEnv): void {
  const given = environment.NODE_OPTIONS;
  if (given === undefined || flag === null || !given.includes(flag)) return;
  const rest = given.replace(flag, '').trim();
  if (rest === '') delete environment.NODE_OPTIONS;
  else environment.NODE_OPTIONS = rest;
}

const flag = import.meta.url.endsWith('.ts')
  ? null
  : `--import=${new URL('../hosts/tfjs/bystander.js', import.meta.url).href}`;
