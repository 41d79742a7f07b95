//! Looks at everything that a model can do, breadth first, and says by the shortest way how a rule was broken.
//!
//! ```text
//!   initial ─▶ each action ─▶ next ──▶ seen before? ──no──▶ a number, the way it was reached, and its turn
//!                    │                     (by its key: what differs in names alone is the same)
//!                    └─▶ every rule looks at (before, action, after)
//!   at the end, backwards from where all is well, over what the well-meaning do: whatever was not reached is stuck
//! ```
//!
//! Our own hundred lines and not stateright, because half of what is promised here is "from wherever one is, it can
//! still end well". Its `eventually` is right on acyclic graphs only, as its documentation says, and processes that
//! come and go are nothing but cycles. Its rules see states, ours see steps ("a stale outcome changes nothing").
//! The graph that it would not show is what the replay needs, which goes over every transition. And it brings a web
//! server that can't be left out.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::Debug,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// What can be checked.
pub trait Model {
    type State: Clone;
    type Key: Copy + Eq + Hash;
    type Action: Copy + Debug;

    fn initial(&self) -> Self::State;

    /// Everything that may happen now.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);

    fn next(&self, state: &Self::State, action: Self::Action) -> Self::State;

    /// A state, and its key: two with the same key have the same future. May answer with another state that
    /// differs in names alone.
    fn key(&self, state: Self::State) -> (Self::State, Self::Key);

    /// Which rule this step breaks.
    fn broken(
        &self,
        before: &Self::State,
        action: Self::Action,
        after: &Self::State,
    ) -> Option<&'static str>;

    /// Where everything should be able to come to.
    fn is_well(&self, state: &Self::State) -> bool;

    /// Whether this may be counted on to happen.
    fn is_well_meant(&self, state: &Self::State, action: Self::Action) -> bool;
}

/// What was found.
#[derive(Debug)]
pub struct Checked<A> {
    pub states: usize,
    pub transitions: usize,
    /// The longest of the shortest ways.
    pub depth: usize,
    pub counterexample: Option<Counterexample<A>>,
}

/// A way to break a rule.
#[derive(Debug)]
pub struct Counterexample<A> {
    pub rule: &'static str,
    pub way: Vec<A>,
}

/// A state that can't end well.
pub const STUCK: &str = "from wherever one is, every job can still end";

struct Search<'m, M: Model> {
    model: &'m M,
    numbers: HashMap<M::Key, u32, BuildHasherDefault<Mixer>>,
    /// From where, by what, and how far from the beginning.
    reached: Vec<(u32, Option<M::Action>, u32)>,
    waiting: VecDeque<(u32, M::State)>,
    well: Vec<u32>,
    /// From and to, of what is well meant.
    hopes: Vec<(u32, u32)>,
    transitions: usize,
}

/// Looks at all of it.
pub fn check<M: Model>(model: &M) -> Checked<M::Action> {
    let mut search = Search::new(model);
    let broken = search.everything(&mut |_, _, _, _| {});
    let broken = broken.or_else(|| search.stuck());
    Checked {
        states: search.reached.len(),
        transitions: search.transitions,
        depth: search.reached.last().map_or(0, |last| last.2 as usize),
        counterexample: broken,
    }
}

/// Ways from the beginning that together show every step which is worth it, in each of its kinds. Names must stay
/// as they are.
pub fn cover<M: Model, K: Copy + Eq + Hash>(
    model: &M,
    worth: impl Fn(&M::State, M::Action) -> Option<K>,
) -> Vec<Vec<M::Action>> {
    let mut search = Search::new(model);
    let (mut known, mut firsts) = (HashSet::new(), Vec::new());
    search.everything(&mut |from, state, action, _| {
        let kind = worth(state, action).filter(|kind| known.insert(*kind));
        firsts.extend(kind.map(|kind| (kind, from, action)));
    });
    let (mut shown, mut ways) = (HashSet::new(), Vec::new());
    // The farthest first: on the way there are others.
    for (kind, from, action) in firsts.into_iter().rev() {
        if shown.contains(&kind) {
            continue;
        }
        let mut way = search.way(from);
        way.push(action);
        let mut state = model.initial();
        for &action in &way {
            shown.extend(worth(&state, action));
            state = model.next(&state, action);
        }
        ways.push(way);
    }
    assert_eq!(shown.len(), known.len());
    ways
}

// === impl Search ===

impl<'m, M: Model> Search<'m, M> {
    fn new(model: &'m M) -> Self {
        Self {
            model,
            numbers: HashMap::default(),
            reached: Vec::new(),
            waiting: VecDeque::new(),
            well: Vec::new(),
            hopes: Vec::new(),
            transitions: 0,
        }
    }

    /// Tells of every step, with the number of the state that it begins in.
    fn everything(
        &mut self,
        tell: &mut impl FnMut(u32, &M::State, M::Action, &M::State),
    ) -> Option<Counterexample<M::Action>> {
        self.reach(self.model.initial(), 0, None);
        let mut actions = Vec::new();
        while let Some((number, state)) = self.waiting.pop_front() {
            actions.clear();
            self.model.actions(&state, &mut actions);
            for &action in &actions {
                let next = self.model.next(&state, action);
                self.transitions += 1;
                if let Some(rule) = self.model.broken(&state, action, &next) {
                    let mut way = self.way(number);
                    way.push(action);
                    return Some(Counterexample { rule, way });
                }
                tell(number, &state, action, &next);
                let to = self.reach(next, number, Some(action));
                if to != number && self.model.is_well_meant(&state, action) {
                    self.hopes.push((number, to));
                }
            }
        }
        None
    }

    fn reach(&mut self, state: M::State, from: u32, by: Option<M::Action>) -> u32 {
        let (state, key) = self.model.key(state);
        let new = u32::try_from(self.reached.len()).expect("fewer states than that");
        let number = *self.numbers.entry(key).or_insert(new);
        if number == new {
            let depth = by.map_or(0, |_| self.reached[from as usize].2 + 1);
            self.reached.push((from, by, depth));
            if self.model.is_well(&state) {
                self.well.push(number);
            }
            self.waiting.push_back((number, state));
        }
        number
    }

    /// The first state from which no hope leads to where all is well.
    fn stuck(&self) -> Option<Counterexample<M::Action>> {
        let mut into = vec![0_u32; self.reached.len() + 1];
        for &(_, to) in &self.hopes {
            into[to as usize + 1] += 1;
        }
        for n in 1..into.len() {
            into[n] += into[n - 1];
        }
        let mut place = into.clone();
        let mut sources = vec![0_u32; self.hopes.len()];
        for &(from, to) in &self.hopes {
            sources[place[to as usize] as usize] = from;
            place[to as usize] += 1;
        }
        let mut hopeful = vec![false; self.reached.len()];
        let mut left = self.well.clone();
        for &well in &left {
            hopeful[well as usize] = true;
        }
        while let Some(to) = left.pop() {
            let range = into[to as usize] as usize..into[to as usize + 1] as usize;
            for &from in &sources[range] {
                if !std::mem::replace(&mut hopeful[from as usize], true) {
                    left.push(from);
                }
            }
        }
        let stuck = hopeful.iter().position(|hopeful| !hopeful)?;
        Some(Counterexample {
            rule: STUCK,
            way: self.way(stuck as u32),
        })
    }

    /// How a state was reached first. Names may change from step to step, where the model answers with other
    /// states than it was asked of.
    fn way(&self, mut number: u32) -> Vec<M::Action> {
        let mut way = Vec::new();
        while let (from, Some(action), _) = self.reached[number as usize] {
            way.push(action);
            number = from;
        }
        way.reverse();
        way
    }
}

/// For keys that are numbers already: fast where nothing is optimized.
#[derive(Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..eight.len()].copy_from_slice(eight);
            self.write_u64(u64::from_le_bytes(number));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}
