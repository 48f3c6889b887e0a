// What this tab was sent, and what it got. The steps of one agent have one priority, so they come in order.

const REMEMBERED_AGENTS = 400;
const REMEMBERED_STEPS = 400;

export class Tally {
  /** `kept`: what `kept` was before a reload. */
  constructor(kept = null) {
    Object.assign(this, kept ?? { queue: null, repeats: 0, lost: 0, agents: {}, steps: [], count: 0, isNew: true });
  }

  /** Of another queue nothing is known: a duplicated tab begins with the other one's tally. */
  belongsTo(queue) {
    return this.queue === queue;
  }

  /** What the server says of its agents. Those that are there when a tab is new may have sent something before. */
  agentsAre(agents) {
    for (const { run, name, sent } of agents.reverse()) {
      const agent = this.#agent(run, name);
      agent.isEarlier ??= this.isNew;
      agent.sent = Math.max(agent.sent, sent);
    }
    this.isNew = false;
  }

  step({ run, agent: name, step, number }, { priority, replayed }) {
    const agent = this.#agent(run, name);
    if (step <= agent.last) agent.wrong += 1;
    else agent.received += 1;
    agent.first ??= step;
    agent.last = Math.max(agent.last, step);
    agent.sent = Math.max(agent.sent, step);
    this.count += 1;
    this.steps.push({ number, priority, replayed, agent: name, run });
    if (this.steps.length > REMEMBERED_STEPS) this.steps.shift();
  }

  losses(counts) {
    for (const count of Object.values(counts)) if (typeof count === "number") this.lost += count;
  }

  /** To this tab: what an agent sent before the tab was there was not. */
  get sent() {
    return this.#sum((agent) => (agent.isEarlier ? agent.sent - (agent.first ?? agent.sent + 1) + 1 : agent.sent));
  }

  get received() {
    return this.#sum((agent) => agent.received);
  }

  /** Repeated to the application, or out of order. */
  get wrong() {
    return this.#sum((agent) => agent.wrong);
  }

  get verdict() {
    const { sent, received, wrong, lost } = this;
    if (wrong) return ["bad", `${wrong} of ${received} came twice or out of order.`];
    if (!sent) return ["none", "No run yet."];
    const isComplete = received + lost >= sent;
    const missed = lost ? `; of ${lost} this tab was told that they are lost` : "";
    if (isComplete) return ["good", `${received} of ${sent} arrived, each once, each agent's in order${missed}.`];
    return ["running", `${received} of ${sent} so far, each once, each agent's in order${missed}.`];
  }

  #agent(run, name) {
    const agents = this.agents;
    const agent = (agents[`${run}/${name}`] ??= { sent: 0, received: 0, wrong: 0, first: null, last: 0, isEarlier: null });
    const [oldest, ...others] = Object.keys(agents);
    if (others.length >= REMEMBERED_AGENTS) delete agents[oldest];
    return agent;
  }

  #sum(of) {
    return Object.values(this.agents).reduce((sum, agent) => sum + of(agent), 0);
  }
}
