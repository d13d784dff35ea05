// Prints `PASSED FAILED` from a report of vitest's JSON reporter. A file that failed outside its tests
// (an import that throws, a hook) counts as one failed test.
import { readFileSync } from 'node:fs';

const report = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const brokenFiles = report.testResults.filter(
  ({ status, assertionResults }) =>
    status === 'failed' && !assertionResults.some((test) => test.status === 'failed'),
);
for (const { name } of brokenFiles) console.error(`failed outside its tests: ${name}`);
if (report.numTotalTests === 0) throw new Error('no test ran');
console.log(`${report.numPassedTests} ${report.numFailedTests + brokenFiles.length}`);
