//! One pass over the whole cluster.

use crate::agent::next_silence;
use crate::breaker::{Moves, is_move};
use crate::check::Scene;
use crate::choose::{Choice, Rules, choose, choose_by};
use crate::device::suspicion_end;
use crate::explain;
use crate::index::{Index, OwnPod};
use crate::keep::{Kept, autonomy_end, is_left_alone, is_silent, kept_pod, pod_on, ready_pod};
use crate::ledger::Ledger;
use crate::outcome::{Assignment, Change, Plan, Reason, ReasonCode, SlotPlan};
use crate::power::lightest;
use crate::serving::{build_serving, determine_degraded, find_serving};
use crate::shed::mark_sheds;
use crate::slot::{Slot, find_stuck, place_named, slots_of};
use crate::steps::{Means, Steps, Turn, delete_pod};
use crate::survey::Survey;
use crate::turns::put_in_turn;
use crate::ways::Way;
use crate::world::{PodState, Workload, WorkloadKey, World};
use crate::yields::{Yields, find_yield};
use jiff::Timestamp;

/// Plans for the whole cluster: what should serve each slot, and the next safe steps.
///
/// In order: slots that must give watts back do; slots whose move has begun finish it; then slots
/// choose in their turn. What a slot holds is counted before anybody chooses, so nobody is robbed.
#[must_use]
pub fn plan(world: &World, now: Timestamp) -> Plan {
    let index = Index::new(world, now);
    let workloads = by_age(world);
    let mut slots = Vec::new();
    for (age, (key, workload)) in workloads.iter().enumerate() {
        let own = slots_of(&index, key, workload);
        slots.extend(own.into_iter().map(|slot| (age, slot)));
    }
    let mut pass = Pass::new(&index, slots.len(), now);
    pass.delete_orphans(|_, _| true);
    if pass.ledger.meter.is_on() {
        pass.plan.sites = pass.ledger.meter.report(&index);
        let mut all: Vec<_> = slots.iter_mut().map(|(_, slot)| slot).collect();
        mark_sheds(&index, &mut pass.ledger, &mut pass.survey, &mut all, now);
    }
    pass.plan_slots(slots);
    pass.finish()
}

/// Whether workloads differ in priority.
pub(crate) fn has_priorities(world: &World) -> bool {
    let mut priorities = world.workloads.values().map(|workload| workload.priority);
    let first = priorities.next();
    priorities.any(|other| Some(other) != first)
}

/// Workloads, the oldest first.
pub(crate) fn by_age(world: &World) -> Vec<(&WorkloadKey, &Workload)> {
    let mut workloads: Vec<_> = world.workloads.iter().collect();
    workloads.sort_by_key(|(key, workload)| (workload.created, *key));
    workloads
}

/// A pass, and what it has planned so far.
pub(crate) struct Pass<'a, 'w> {
    index: &'a Index<'w>,
    pub ledger: Ledger<'w>,
    survey: Survey<'w>,
    moves: Moves,
    /// Pods that give their devices up; nothing where all workloads are of one priority.
    yields: Option<Yields<'w>>,
    pub now: Timestamp,
    pub plan: Plan,
}

impl<'a, 'w> Pass<'a, 'w> {
    /// A pass over a cluster with about so many slots.
    pub fn new(index: &'a Index<'w>, slots: usize, now: Timestamp) -> Self {
        Self {
            ledger: Ledger::new(index, now),
            index,
            survey: Survey::default(),
            moves: Moves::count(index, slots, now),
            yields: has_priorities(index.world).then(Yields::new),
            now,
            plan: Plan::default(),
        }
    }

    /// Plans slots, each in its turn.
    pub fn plan_slots(&mut self, slots: Vec<(usize, Slot<'w>)>) {
        let index = self.index;
        for (_, slot) in put_in_turn(index, &self.ledger, slots) {
            let ways = index.ways(slot.key, &slot.name);
            let planned = self.plan_slot(slot, ways);
            self.plan.slots.push(planned);
        }
    }

    /// The plan, in order.
    pub fn finish(mut self) -> Plan {
        let order = |left: &SlotPlan, right: &SlotPlan| {
            let by_workload = left.workload.cmp(&right.workload);
            by_workload
                .then(left.ordinal.cmp(&right.ordinal))
                .then_with(|| left.slot.cmp(&right.slot))
        };
        let slots = &mut self.plan.slots;
        if !slots.is_sorted_by(|left, right| order(left, right).is_le()) {
            slots.sort_by(order);
        }
        self.plan.breaker = self.moves.state();
        self.wake(self.plan.breaker.until);
        self.wake(next_silence(self.index.world, self.now));
        self.plan.wake_at = self.plan.wake_at.filter(|at| *at > self.now);
        self.plan
    }

    fn plan_slot(&mut self, mut slot: Slot<'w>, ways: &[Way<'w>]) -> SlotPlan {
        if slot.workload.deleting {
            return self.report(&slot, ways, &Choice::default(), None, Steps::default());
        }
        let look_again = find_stuck(&mut slot, self.index, &self.ledger, self.now);
        self.wake(look_again);
        if let Some(yields) = &self.yields {
            slot.yields = yields.get(&(slot.key, slot.name.as_str())).copied();
        }
        let mut kept = kept_pod(self.index, &self.ledger.meter, &slot, ways, self.now);
        if is_left_alone(self.index, &slot, self.now) {
            return self.leave_alone(&slot, ways, kept);
        }
        let mut choice = self.choose(&slot, ways, kept, None);
        let mut excess = None;
        if slot.sheds {
            kept = pod_on(self.index, &slot, ways, choice.target, self.now);
            if choice.target.is_none() {
                excess = Some(self.keep_excess(&mut slot));
                kept = kept_pod(self.index, &self.ledger.meter, &slot, ways, self.now);
                choice = self.choose(&slot, ways, kept, None);
            }
        }
        if slot.yields.is_some() && choice.target.is_none() {
            slot.yields = None;
            kept = kept_pod(self.index, &self.ledger.meter, &slot, ways, self.now);
            choice = self.choose(&slot, ways, kept, None);
        }
        self.take_from_lower(&slot, ways, &mut choice);
        kept = self.hold_or_move(&slot, ways, &mut choice, kept);
        let stays = kept.as_ref().filter(|_| slot.sheds);
        self.ledger.put_back(stays.map(|kept| &kept.own));
        let mut steps = self.steps(&slot, ways, &choice, kept, Means::Near);
        if steps.held {
            (choice, steps) = self.look_elsewhere(&slot, ways, kept, choice);
        }
        self.book_wishes(&slot, ways, &choice);
        steps.problem = steps.problem.or(excess.filter(|_| choice.target.is_some()));
        if choice.target.is_none() {
            let has_nodes = slot.node.is_some() || !self.survey.nodes(self.index, slot.workload).is_empty();
            steps.problem = Some(explain::no_feasible(&slot, ways, &choice, has_nodes));
        }
        self.wake_for_pods(&slot);
        self.wake(choice.wake_at);
        self.report(&slot, ways, &choice, kept, steps)
    }

    /// A slot of higher priority waits for a device that lower priority holds, and its holder yields.
    fn take_from_lower(&mut self, slot: &Slot<'w>, ways: &[Way<'w>], choice: &mut Choice) {
        let Some(yields) = &mut self.yields else { return };
        let scene = Scene {
            index: self.index,
            ledger: &self.ledger,
            now: self.now,
        };
        let found = find_yield(scene, &mut self.survey, slot, ways, &choice.candidates);
        let Some((place, node, holder)) = found else {
            return;
        };
        choice.wishes.push((place, node));
        if let Some(holder) = holder {
            let owned = holder.owned;
            yields.insert((&owned.workload, owned.slot.as_str()), holder.pod.name.as_str());
        }
    }

    /// A slot that must give watts back and has no cheaper way keeps what it has.
    fn keep_excess(&mut self, slot: &mut Slot<'w>) -> Reason {
        slot.sheds = false;
        self.ledger.put_back(lightest(&slot.pods));
        Reason {
            code: ReasonCode::PowerBudgetExceeded,
            message: format!(
                "a power budget is exceeded, and {} has no variant that draws less and may serve: raise the budget of \
                 the EdgeSite, or give the workload a cheaper variant",
                slot.name
            ),
        }
    }

    /// Whether the slot may begin to move; where it may not it stays with what serves it.
    fn hold_or_move(
        &mut self,
        slot: &Slot<'w>,
        ways: &[Way<'w>],
        choice: &mut Choice,
        kept: Option<Kept<'w>>,
    ) -> Option<Kept<'w>> {
        let on_target = |kept: &Kept<'_>| choice.target == Some((kept.place, kept.node));
        if choice.target.is_none() || kept.as_ref().is_some_and(on_target) || !is_move(slot) {
            return kept;
        }
        choice.is_move = true;
        if slot.is_in_transit() || self.moves.admit() {
            return kept;
        }
        let Some(present) = ready_pod(slot, ways) else {
            return kept;
        };
        choice.hold(present, self.moves.reason());
        Some(present)
    }

    /// A replica that cannot be bridged where it is may have another node, on which the same
    /// variant fits at once; else a bridge may be farther off, or there is none.
    fn look_elsewhere(
        &mut self,
        slot: &Slot<'w>,
        ways: &[Way<'w>],
        kept: Option<Kept<'w>>,
        held: Choice,
    ) -> (Choice, Steps) {
        let way = |choice: &Choice| choice.target.map(|(place, _)| &ways[place]);
        if slot.node.is_none() {
            let rules = Rules {
                release_own: false,
                respect_wishes: !held.ignored_wishes,
            };
            let other = self.choose(slot, ways, kept, Some(rules));
            let no_worse = |(of_other, of_held): (&Way, &Way)| !of_held.beats(of_other);
            if way(&other).zip(way(&held)).is_some_and(no_worse) {
                let other = Choice {
                    is_move: held.is_move,
                    ..other
                };
                let steps = self.steps(slot, ways, &other, kept, Means::Any);
                return (other, steps);
            }
        }
        let steps = self.steps(slot, ways, &held, kept, Means::Any);
        (held, steps)
    }

    fn steps(
        &mut self,
        slot: &Slot<'w>,
        ways: &[Way<'w>],
        choice: &Choice,
        kept: Option<Kept<'w>>,
        means: Means,
    ) -> Steps {
        let on_target = kept.filter(|kept| choice.target == Some((kept.place, kept.node)));
        let turn = Turn {
            index: self.index,
            ledger: &mut self.ledger,
            now: self.now,
            slot,
            ways,
            survey: &mut self.survey,
            choice,
            means,
            steps: Steps::default(),
        };
        turn.determine(on_target)
    }

    /// The slot's node is silent or not ready: nothing is changed, and nothing else is blamed.
    fn leave_alone(&mut self, slot: &Slot<'w>, ways: &[Way<'w>], kept: Option<Kept<'w>>) -> SlotPlan {
        let choice = Choice {
            target: kept.map(|kept| (kept.place, kept.node)),
            best: kept.map(|kept| kept.place),
            ..Choice::default()
        };
        let node = slot.node.or_else(|| slot.live().find_map(|own| own.node));
        self.wake_for_pods(slot);
        let offline = node.is_some_and(|node| is_silent(self.index, node));
        let name = node.map(|node| self.index.name(node)).unwrap_or_default();
        let problem = (!offline && slot.ready().next().is_none()).then(|| Reason {
            code: ReasonCode::NodeNotReady,
            message: format!("{name} is not ready: `kubectl describe node {name}` says why"),
        });
        let steps = Steps {
            problem,
            ..Steps::default()
        };
        let report = self.report(slot, ways, &choice, kept, steps);
        let degraded = if offline { None } else { report.degraded };
        SlotPlan {
            offline,
            degraded,
            ..report
        }
    }

    /// Deletes the pods of slots that are no more, of those that are asked about.
    pub fn delete_orphans(&mut self, asked: impl Fn(&WorkloadKey, &[OwnPod<'w>]) -> bool) {
        for (key, workload) in by_age(self.index.world) {
            if workload.deleting {
                continue;
            }
            let slots = self.index.slots_with_pods(key);
            let orphans = slots
                .filter(|(slot, pods)| asked(key, pods) && place_named(self.index, workload, slot).is_none());
            for (slot, pods) in orphans {
                for own in pods.iter().filter(|own| own.owned.state != PodState::Terminating) {
                    let why = format!("{key} has no slot {slot} any more");
                    self.plan.changes.push(Change::Delete(delete_pod(own, None, why)));
                }
            }
        }
    }

    /// Notes that the slot waits for a device, unless its own pod still holds one there.
    fn book_wishes(&mut self, slot: &Slot<'w>, ways: &[Way<'w>], choice: &Choice) {
        for (place, node) in &choice.wishes {
            let Some(resource) = ways[*place].resource() else {
                continue;
            };
            if slot.release_on(*node).of_resource(resource) < 1 {
                self.ledger.wish(*node, resource);
                self.plan.wished.insert(self.index.name(*node).to_owned());
            }
        }
    }

    fn report(
        &mut self,
        slot: &Slot<'w>,
        ways: &[Way<'w>],
        choice: &Choice,
        kept: Option<Kept<'w>>,
        steps: Steps,
    ) -> SlotPlan {
        self.wake(steps.wake_at);
        self.plan.changes.extend(steps.changes);
        let serving = find_serving(slot, ways, kept);
        SlotPlan {
            workload: slot.key.clone(),
            slot: slot.name.clone(),
            ordinal: if slot.node.or(slot.site).is_some() {
                0
            } else {
                slot.ordinal
            },
            target: choice.target.map(|(place, node)| Assignment {
                node: self.index.name(node).to_owned(),
                variant: ways[place].variant.name.clone(),
                profile: ways[place].profile_name.map(str::to_owned),
                revision: slot.workload.revision.clone(),
            }),
            best_variant: choice.best.map(|place| ways[place].variant.name.clone()),
            degraded: determine_degraded(ways, choice, serving),
            serving: serving.map(build_serving),
            problem: steps.problem,
            offline: false,
            changing: steps.changing,
            expected: choice.target.map(|(place, _)| ways[place].expected),
            candidates: choice.candidates.clone(),
        }
    }

    /// Looks again when a pod is given up: its node too long silent, its device dead, its model not to be run there.
    fn wake_for_pods(&mut self, slot: &Slot<'w>) {
        for own in slot.live() {
            self.wake(own.node.and_then(|node| autonomy_end(self.index, slot, node)));
            self.wake(suspicion_end(self.index, slot, own, self.now));
        }
        self.wake(slot.inabilities.change);
    }

    /// Plans again at a time, if it is to come.
    pub fn wake(&mut self, at: Option<Timestamp>) {
        let future = at.filter(|at| *at > self.now);
        self.plan.wake_at = self.plan.wake_at.into_iter().chain(future).min();
    }

    fn choose(
        &mut self,
        slot: &Slot<'w>,
        ways: &[Way<'w>],
        kept: Option<Kept<'w>>,
        rules: Option<Rules>,
    ) -> Choice {
        let scene = Scene {
            index: self.index,
            ledger: &self.ledger,
            now: self.now,
        };
        match rules {
            None => choose(scene, slot, ways, &mut self.survey, kept),
            Some(rules) => choose_by(scene, slot, ways, &mut self.survey, kept, rules),
        }
    }
}
