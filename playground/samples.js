/** Scripts for the agent `scripted`, each showing one thing that a front end has to cope with. */
export const SAMPLES = [
  { name: 'A plain answer', script: 'say A script is played one directive a line, without any model.' },
  {
    name: 'Slow words',
    script: [
      'say Every word',
      'wait 400',
      'say  takes its time,',
      'wait 400',
      'say  so that you can watch',
      'wait 400',
      'say  the stream,',
      'wait 400',
      'say  cut the connection',
      'wait 1500',
      'say  and see that nothing',
      'wait 400',
      'say  was lost: naïve café, 日本語, кириллица.',
    ].join('\n'),
  },
  {
    name: 'Reasoning and a tool',
    script: [
      'think The user wants a sum. I had better use the tool for that than trust myself.',
      'wait 500',
      'say Let me add these up.',
      'tool add {"a": 19, "b": 23}',
      'wait 500',
      'say The sum is 42.',
      'usage 120 18',
    ].join('\n'),
  },
  {
    name: 'Two tools, one slow',
    script: ['say Looking at the clock.', 'tool clock {}', 'tool sleep {"ms": 2000}', 'say Two seconds later.'].join(
      '\n',
    ),
  },
  {
    name: 'A tool that fails',
    script: [
      'say I will try the tool.',
      'tool fail {"message": "The disk is full"}',
      'say The tool failed, and the turn goes on: a tool error is data.',
    ].join('\n'),
  },
  {
    name: 'A turn that fails',
    script: ['say This begins well,', 'wait 300', 'fail The model lost its mind'].join('\n'),
  },
  { name: 'Hang until interrupted', script: ['say Press Esc to interrupt me.', 'hang'].join('\n') },
  { name: '2,000 deltas', script: 'deltas 2000' },
]

/** A menu that writes the chosen script into `field`. It springs back, so that the same one can be chosen again. */
export function fillSampleMenu(menu, field) {
  for (const { name } of SAMPLES) menu.append(new Option(name, name))
  menu.addEventListener('change', () => {
    const sample = SAMPLES.find(({ name }) => name === menu.value)
    menu.value = ''
    if (sample === undefined) return
    field.value = sample.script
    field.dispatchEvent(new Event('input', { bubbles: true }))
    field.focus()
  })
}
