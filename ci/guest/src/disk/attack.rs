//! The hostile front end.

use super::connection::Connection;
use super::machine::Ground;
use super::{MILLISECOND, Options, bind_timer, drive, wait_until};
use crate::{memory, println};
use alloc::format;
use alloc::string::String;
use block_front::{Attack, Front, Goal, Machine, Model, Offer, Ring, SLOTS, Step};
use fuzz_programs::Random;

/// Sectors that are used to see whether the disk works.
const SMALL: usize = 64;
/// Requests of that.
const FEW: u64 = 12;
/// How long an attack has an effect, in nanoseconds.
const EFFECT: u64 = 200 * MILLISECOND;

/// Attacks the back end as often as the command line says.
pub fn run(options: &Options) -> Result<String, String> {
    bind_timer();
    let mut connection = Connection::find(options.device)?;
    let mut ground = Ground::make(connection.partner, options.rings);
    let mut random = Random::new(options.seed);
    let mut sectors = connection.works(&mut ground, options, 0)?;
    for number in 1..=options.count {
        connection.begin_again(&mut ground)?;
        let attack = Attack::random(&mut random, sectors, &ground.foreign());
        let told = |text: String| format!("after attack {number}, {attack:?}: {text}");
        perform(&mut connection, &mut ground, options, &attack, &mut random)
            .and_then(|()| connection.begin_again(&mut ground))
            .and_then(|()| connection.works(&mut ground, options, number))
            .map(|found| sectors = found)
            .map_err(told)?;
        if number % 16 == 0 {
            println!("disk-hostile: at {number} attacks");
        }
    }
    connection.close(&ground)?;
    Ok(format!("{} attacks, 0 errors", options.count))
}

impl Connection {
    /// Connects and checks that the disk can be used; returns its size.
    fn works(
        &mut self,
        ground: &mut Ground,
        options: &Options,
        number: u64,
    ) -> Result<u64, String> {
        let (offer, rings) = self.connect(ground, options.rings)?;
        let seed = options.seed ^ number << 32;
        let mut front = small(ground, offer, &rings, seed, FEW);
        drive(&mut front, ground, self, (false, false))?;
        Ok(offer.sectors)
    }
}

/// A front end with a few requests on a few sectors.
fn small(ground: &Ground, offer: Offer, rings: &[Ring], seed: u64, count: u64) -> Front {
    let model = Model::new(seed, offer.sectors, SMALL);
    let how = (SLOTS, Goal::Requests(count));
    Front::new(ground, offer, model, seed, rings, ground.data_pages(), how)
}

fn perform(
    connection: &mut Connection,
    ground: &mut Ground,
    options: &Options,
    attack: &Attack,
    random: &mut Random,
) -> Result<(), String> {
    match attack {
        Attack::Storm(states) => {
            let _ = connection.offer(ground, options.rings, None)?;
            return states.iter().try_for_each(|state| connection.show(*state));
        }
        Attack::Rubbish(rubbish) => {
            let _ = connection.offer(ground, options.rings, Some(rubbish))?;
            wait_until(memory::now() + EFFECT);
            return Ok(());
        }
        _ => {}
    }
    let (offer, rings) = connection.connect(ground, options.rings)?;
    let Some(mut ring) = rings.first().copied() else { return Ok(()) };
    match attack {
        Attack::Index { index, add } => ring.corrupt(ground, *index, *add),
        Attack::Requests(all) => {
            for (request, page) in all.iter().zip(ground.data_pages()) {
                request.write(ground, &mut ring, page);
            }
            ring.publish(ground);
        }
        Attack::Scribble(times) => {
            let mut front = small(ground, offer, &rings, options.seed, u64::MAX);
            put_in_flight(&mut front, ground)?;
            for _ in 0..*times {
                ring.scribble(ground, random.bits() as usize, random.number() as u32);
            }
        }
        Attack::Revoke => {
            let mut front = small(ground, offer, &rings, options.seed, u64::MAX);
            put_in_flight(&mut front, ground)?;
            ground.clear_by_force();
        }
        Attack::Leave(state) => {
            let mut front = small(ground, offer, &rings, options.seed, u64::MAX);
            put_in_flight(&mut front, ground)?;
            return connection.show(*state);
        }
        Attack::Storm(_) | Attack::Rubbish(_) => {}
    }
    wait_for_effect(connection, ground, &ring)
}

/// Works until requests are in flight.
fn put_in_flight(front: &mut Front, ground: &Ground) -> Result<(), String> {
    const STEPS: u32 = 40;
    for _ in 0..STEPS {
        if let Step::Done = front.step(ground).map_err(|fault| format!("{fault}"))? {
            break;
        }
    }
    Ok(())
}

/// Waits until all requests are answered, the back end has closed, or some time has passed.
fn wait_for_effect(
    connection: &mut Connection,
    ground: &Ground,
    ring: &Ring,
) -> Result<(), String> {
    const CONNECTED: u32 = pv_abi::xen::xenbus::CONNECTED;
    let end = ground.now() + EFFECT;
    while ground.now() < end
        && ring.produced(ground) != ring.written()
        && connection.state()? == CONNECTED
    {
        wait_until(ground.now() + 10 * MILLISECOND);
    }
    Ok(())
}
