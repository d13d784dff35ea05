/** The command that builds the native engine where this package lies. */
import { sep } from 'node:path';

/**
 * In a clone the script alone; in an installed package the headers first, which are development dependencies.
 *
 * @param packageRoot folder of this package
 * @param force also where an engine of these sources is there already
 */
export function buildCommand(packageRoot: string, force = false): string {
  const build = `npm run build:addon${force ? ' -- --force' : ''}`;
  return packageRoot.split(sep).includes('node_modules')
    ? `npm install --no-save node-api-headers node-addon-api && npm explore deepspeed-js -- ${build}`
    : build;
}
