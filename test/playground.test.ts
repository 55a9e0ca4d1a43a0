import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { has, pathOf } from './helpers/programs.ts'
import { startServer, type TestServer } from './helpers/server.ts'
import { patience } from './helpers/slowness.ts'

const CHROMIUM = pathOf('chromium')
const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** Conditions are waited for, never time; this is when to give up. */
const PATIENCE = { timeout: patience(15_000) }

interface Frame {
  kind: string
  data?: string
}

/** Every frame of a body that arrives in the given pieces. */
async function framesOf(pieces: Uint8Array[]): Promise<Frame[]> {
  const { readFrames } = await import(new URL('../playground/sse.js', import.meta.url).href)
  const frames: Frame[] = []
  const body = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece)
      controller.close()
    },
  })
  for await (const some of readFrames(body)) frames.push(...some)
  return frames
}

describe('the reader of event streams', () => {
  const text = [
    'retry: 1500\nevent: text_delta\ndata: {"delta":"naïve 日本 😀"}\nid: 1\n\n: ping\n',
    'event: heartbeat\r\ndata: {}\r\n\r\nevent: nothing\n\ndata: one\ndata:two\n\ndata: never finished\nid: 2\n',
  ].join('')
  const frames = [
    { kind: 'retry', ms: 1500 },
    { kind: 'event', type: 'text_delta', id: '1', data: '{"delta":"naïve 日本 😀"}' },
    { kind: 'comment', text: 'ping' },
    { kind: 'event', type: 'heartbeat', id: undefined, data: '{}' },
    { kind: 'event', type: 'message', id: undefined, data: 'one\ntwo' },
  ]

  test('reads the same wherever the bytes are split', async () => {
    const bytes = new TextEncoder().encode(text)
    for (let at = 0; at <= bytes.length; at++) {
      expect(await framesOf([bytes.subarray(0, at), bytes.subarray(at)])).toEqual(frames)
    }
    expect(await framesOf(Array.from(bytes, (byte) => Uint8Array.of(byte)))).toEqual(frames)
  })
})

describe.runIf(has('chromium'))('the playground', () => {
  let server: TestServer
  let browser: Browser
  let contexts: BrowserContext[] = []

  beforeAll(async () => {
    server = await startServer()
    browser = await chromium.launch({ executablePath: CHROMIUM ?? '', args: ARGS })
  })

  afterEach(async () => {
    await Promise.all(contexts.map((context) => context.close()))
    contexts = []
  })

  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  /** A page, and what its console says is wrong with it. */
  async function open(url: string, options: BrowserContextOptions = {}): Promise<{ page: Page; faults: string[] }> {
    const context = await browser.newContext(options)
    contexts.push(context)
    const page = await context.newPage()
    page.setDefaultTimeout(PATIENCE.timeout)
    const faults: string[] = []
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') faults.push(message.text())
    })
    page.on('pageerror', (error) => faults.push(String(error)))
    await page.goto(url)
    return { page, faults }
  }

  const openSession = (id: string, options?: BrowserContextOptions) =>
    open(`${server.url}/playground?session=${id}`, options)

  /** A session made through the API, its first turn running or deferred. */
  async function createSession(body: object): Promise<string> {
    const response = await fetch(`${server.url}/sessions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'respond-async' },
      body: JSON.stringify(body),
    })
    return ((await response.json()) as { session_id: string }).session_id
  }

  const scripted = () => createSession({ agent: 'scripted', initial_turn: 'deferred' })

  async function send(page: Page, prompt: string): Promise<void> {
    await page.fill('#prompt', prompt)
    await page.press('#prompt', 'Enter')
  }

  const turn = (page: Page, number: number, status: string) =>
    page.locator(`.turn[aria-label="Turn ${number}"][data-status="${status}"]`)

  const answer = (page: Page) => page.locator('.answer .text').allTextContents()

  /** The page's own scroll width beside the width that there is. */
  async function widths(page: Page): Promise<{ content: number; screen: number }> {
    return page.locator('html').evaluate((html) => ({ content: html.scrollWidth, screen: html.clientWidth }))
  }

  test('loads without an error and without breaking its own policy', async () => {
    const { page, faults } = await open(`${server.url}/playground`)
    await page.getByRole('button', { name: 'Say hello' }).waitFor()
    await page.getByText('No sessions yet').or(page.locator('#session-list li').first()).waitFor()
    await page.getByRole('link', { name: 'API reference' }).waitFor()
    expect(faults).toEqual([])
  })

  test('creates a session with options and shows the answer of echo as it was said', async () => {
    const { page, faults } = await open(`${server.url}/playground`)
    const prompt = 'Two  spaces,\na line, naïve 日本語 😀 and <b>no markup</b>'
    await page.locator('#sessions-pane').getByRole('button', { name: 'New session' }).click()
    const dialog = page.getByRole('dialog', { name: 'New session' })
    await dialog.getByLabel('Agent').selectOption('echo')
    await dialog.getByLabel('First prompt').fill(prompt)
    await dialog.getByLabel('Pause before each word').fill('0')
    await dialog.getByText('More options').click()
    await dialog.getByLabel('Labels').fill('name=greeting\nteam=blue')
    await dialog.getByRole('button', { name: 'Create and run' }).click()
    await turn(page, 1, 'completed').waitFor()
    expect(await answer(page)).toEqual([prompt])
    await page.getByRole('heading', { name: 'greeting' }).waitFor()
    await page.locator('.session[aria-current="true"]', { hasText: 'team=blue' }).waitFor()

    await send(page, 'once more')
    await turn(page, 2, 'completed').waitFor()
    expect(await answer(page)).toEqual([prompt, 'once more'])
    expect(await page.inputValue('#prompt')).toBe('')

    await page.reload()
    await turn(page, 2, 'completed').waitFor()
    expect(await answer(page)).toEqual([prompt, 'once more'])
    expect(faults).toEqual([])
  })

  test('shows text while it streams, and says it by the sentence', async () => {
    const id = await scripted()
    const { page } = await openSession(id)
    await send(page, 'say It begins. And\nhang')
    await page.locator('.text.growing', { hasText: 'It begins. And' }).waitFor()
    await turn(page, 1, 'running').waitFor()
    expect(await page.getByRole('log', { name: 'Answer' }).locator('p').allTextContents()).toEqual(['It begins.'])
  })

  test('shows reasoning, tool calls, their errors and failed turns for what they are', async () => {
    const { page, faults } = await openSession(await scripted())
    await send(
      page,
      'think Better to add it up.\nsay Adding.\ntool add {"a": 19, "b": 23}\nsay It is 42.\ntool fail {"message": "full"}\nsay Done.',
    )
    await turn(page, 1, 'completed').waitFor()
    const reasoning = page.locator('details.reasoning')
    expect(await reasoning.locator('.text').textContent()).toBe('Better to add it up.')
    const add = page.getByRole('region', { name: 'Tool add' })
    expect(await add.getAttribute('data-state')).toBe('done')
    expect(await add.locator('.value').allTextContents()).toEqual(['{\n  "a": 19,\n  "b": 23\n}', '42'])
    const fail = page.getByRole('region', { name: 'Tool fail' })
    expect(await fail.getAttribute('data-state')).toBe('failed')
    expect(await fail.locator('.tool-state').textContent()).toMatch(/^error · \d+ ms$/)
    expect(await page.locator('.call-label').allTextContents()).toEqual([
      'Model call 1',
      'Model call 2',
      'Model call 3',
    ])
    await page.getByText('3 model calls · 2 tool calls').waitFor()

    await send(page, 'say Well begun\nfail The model lost its mind')
    await turn(page, 2, 'failed').getByText('AGENT_ERROR').waitFor()
    await page.getByText('The model lost its mind', { exact: true }).waitFor()

    await page.getByRole('tab', { name: 'History' }).click()
    await page.locator('#history').getByText('Calls add').waitFor()
    expect(faults).toEqual([])
  })

  test('names the turn that is in the way, and interrupts', async () => {
    const { page } = await openSession(await scripted())
    await send(page, 'say waiting\nhang')
    await turn(page, 1, 'running').waitFor()
    await send(page, 'say second\nhang')
    await page.getByText('Turn 1 is in the way').waitFor()
    await page.getByText('SESSION_BUSY').waitFor()
    await page.getByRole('button', { name: 'Interrupt turn 1 and send' }).click()
    await turn(page, 1, 'interrupted').waitFor()
    await turn(page, 2, 'running').waitFor()
    await page.selectOption('#on-busy', 'enqueue')
    await send(page, 'say third')
    await turn(page, 3, 'queued').waitFor()
    await page.press('#prompt', 'Escape')
    await turn(page, 2, 'interrupted').waitFor()
    await turn(page, 3, 'completed').waitFor()
    expect(await answer(page)).toEqual(['waiting', 'second', 'third'])
  })

  test('loses and doubles nothing however often the connection is cut', async () => {
    const words = Array.from({ length: 80 }, (_, i) => `w${i} né 日本`).join(' ')
    const id = await createSession({ prompt: words, agent: 'echo', provider_params: { delay_ms: 25 } })
    const { page } = await openSession(id)
    const shown = () => page.locator('.answer .text').textContent()
    for (const cut of [1, 2, 3]) {
      const before = (await shown()) ?? ''
      await expect.poll(async () => ((await shown()) ?? '').length, PATIENCE).toBeGreaterThan(before.length)
      await page.getByRole('button', { name: 'Cut connection' }).click()
      await page.getByText('Cut on purpose. Will ask for what follows seq').waitFor()
      await page.getByRole('button', { name: 'Resume now' }).click()
      await page.getByText(`· ${cut} resume`).waitFor()
    }
    await page.getByText(/^Resumed after seq \d+ · .* · no gap$/).waitFor()
    await turn(page, 1, 'completed').waitFor({ timeout: patience(20_000) })
    expect(await shown()).toBe(words)
    expect(await page.locator('#alarms').textContent()).toBe('')
    const seqs = (await page.locator('details.log-row .log-seq').allTextContents()).filter((seq) => seq !== '–')
    expect(seqs).toEqual(seqs.map((_, i) => String(Number(seqs[0]) + i)))
  })

  test('raises an alarm at a gap and drops what comes twice', async () => {
    const id = await scripted()
    const event = (seq: number, type: string, rest: object) =>
      `event: ${type}\ndata: ${JSON.stringify({ type, seq, turn: 1, ...rest })}\nid: ${seq}\n\n`
    const { page } = await open(`${server.url}/playground`)
    await page.route(`**/sessions/${id}/events*`, (route) =>
      route.fulfill({
        contentType: 'text/event-stream',
        body: [
          event(1, 'run_started', { session_id: id, prompt: 'p' }),
          event(2, 'turn_started', { turn_number: 0 }),
          event(3, 'text_delta', { delta: 'a' }),
          event(3, 'text_delta', { delta: 'a' }),
          event(5, 'text_delta', { delta: 'c' }),
          `event: done\ndata: {"type":"done","session_id":"${id}"}\n\n`,
        ].join(''),
      }),
    )
    await page.goto(`${server.url}/playground?session=${id}`)
    await page.locator('#alarms', { hasText: 'Event 3 came again after 3' }).waitFor()
    await page.locator('#alarms', { hasText: 'Gap: event 4 was due, 5 came' }).waitFor()
    expect(await answer(page)).toEqual(['ac'])
  })

  test('stays usable when the server has forgotten the session', async () => {
    const { page } = await openSession('0192f0c4-7d2b-7000-8000-000000000000')
    await page.getByText('The server does not know this session').waitFor()
    await page.locator('#ended').getByRole('button', { name: 'New session' }).click()
    await page.getByLabel('First prompt').fill('still here')
    await page.getByRole('button', { name: 'Create and run' }).click()
    await turn(page, 1, 'completed').waitFor()
    expect(await answer(page)).toEqual(['still here'])
  })

  test('archives a session and keeps what was received', async () => {
    const { page } = await openSession(await createSession({ prompt: 'keep this' }))
    await turn(page, 1, 'completed').waitFor()
    await page.getByRole('button', { name: 'Archive' }).click()
    await page.locator('#archive-form').getByRole('button', { name: 'Archive' }).click()
    await page.getByText('This session is archived.').waitFor()
    await page.locator('#connection[data-phase="closed"]').waitFor()
    expect(await answer(page)).toEqual(['keep this'])
    expect(await page.locator('#composer').isVisible()).toBe(false)
  })

  test('keeps the event log short in the page and whole in memory', async () => {
    const { page } = await openSession(await scripted())
    await send(page, 'deltas 2000')
    await turn(page, 1, 'completed').waitFor()
    await expect.poll(() => page.locator('#log-summary').textContent(), PATIENCE).toBe('300 of 2,006 frames')
    expect(await page.locator('.log-row').count()).toBe(300)
    expect(await page.locator('.answer .text').textContent()).toBe('x'.repeat(16_000))
    await page.fill('#log-filter', 'run_')
    await expect
      .poll(() => page.locator('.log-type').allTextContents(), PATIENCE)
      .toEqual(['run_started', 'run_completed'])
  })

  test('asks for the API key when the server wants one', async () => {
    const guarded = await startServer({ API_KEYS: '[{"key":"k-test-123456789012"}]' })
    try {
      const { page } = await open(`${guarded.url}/playground`)
      const dialog = page.getByRole('dialog', { name: 'API key' })
      await dialog.getByLabel('Key').fill('wrong')
      await dialog.getByRole('button', { name: 'Use this key' }).click()
      await dialog.getByText('did not accept that key').waitFor()
      await dialog.getByLabel('Key').fill('k-test-123456789012')
      await dialog.getByRole('button', { name: 'Use this key' }).click()
      await dialog.waitFor({ state: 'hidden' })
      await page.getByText('No sessions yet').waitFor()
      await page.getByRole('button', { name: 'Say hello' }).click()
      await turn(page, 1, 'completed').waitFor()
      await page.reload()
      await turn(page, 1, 'completed').waitFor()
      expect(await dialog.isVisible()).toBe(false)
    } finally {
      await guarded.close()
    }
  })

  test('fits a phone', async () => {
    const id = await createSession({ agent: 'scripted', prompt: `say ${'x'.repeat(300)}\ntool add {"a": 1, "b": 2}` })
    for (const width of [390, 320]) {
      const { page } = await openSession(id, { viewport: { width, height: 720 } })
      await turn(page, 1, 'completed').waitFor()
      for (const pane of ['Chat', 'Sessions', 'Inspector']) {
        await page.getByRole('navigation', { name: 'Panes' }).getByRole('button', { name: pane }).click()
        expect(await widths(page)).toEqual({ content: width, screen: width })
      }
    }
  })

  test('follows the reader into the dark', async () => {
    const ground = async (colorScheme: 'light' | 'dark') => {
      const { page } = await open(`${server.url}/playground`, { colorScheme })
      return page.locator('body').evaluate((body) => {
        const { backgroundColor, color } = body.ownerDocument.defaultView?.getComputedStyle(body) ?? {}
        return { backgroundColor, color }
      })
    }
    expect(await ground('light')).toEqual({ backgroundColor: 'rgb(247, 245, 241)', color: 'rgb(36, 33, 29)' })
    expect(await ground('dark')).toEqual({ backgroundColor: 'rgb(22, 21, 19)', color: 'rgb(236, 231, 222)' })
  })
})
