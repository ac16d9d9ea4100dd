//! The event loop.

use partition_runtime::events::{Events, Port};
use partition_runtime::{lead, log, time};
use pv_abi::uv::command::{Answer, Body, Reply, Request};
use transaction::{Engine, Facts};

use crate::lead::{Counters, Lead};
use crate::services::Services;

/// All that the ultravisor has.
pub struct Host {
    /// Database, log and transactions.
    pub engine: Engine<'static>,
    facts: Facts,
    /// What is served.
    pub services: Services,
    events: Events,
}

impl Host {
    /// A host that serves nothing yet.
    #[must_use]
    pub fn new(engine: Engine<'static>, facts: Facts, services: Services) -> Self {
        Self {
            engine,
            facts,
            services,
            events: Events::new(),
        }
    }

    /// Handles events for ever.
    pub fn serve(&mut self) -> ! {
        self.monitor_events();
        loop {
            let port = self.events.wait();
            self.handle(port);
        }
    }

    fn handle(&mut self, port: Port) {
        if port == self.services.serial_port {
            for console in self.services.consoles.values() {
                console.serve();
            }
        } else if port == self.services.monitor_port {
            self.monitor_events();
        } else if let Some(console) = self.services.consoles.get(&port) {
            console.serve();
        } else if let Some(client) = self.services.stores.get_mut(&port) {
            client.serve(&mut self.services.store);
            self.services.flush_stores();
        } else if self.services.commands.contains_key(&port) {
            self.command(port);
            self.services.flush_stores();
        }
    }

    /// Answers what a client asks, as far as its replies fit.
    fn command(&mut self, port: Port) {
        loop {
            let Some(channel) = self.services.commands.get_mut(&port) else {
                return;
            };
            let client = channel.client;
            let Some(request) = channel.next() else {
                return;
            };
            let reply = self.answer(client, &request);
            if let Some(channel) = self.services.commands.get_mut(&port) {
                channel.answer(reply);
            }
        }
    }

    fn answer(&mut self, client: u32, request: &Request) -> Reply {
        let transaction = match &request.body {
            Body::Query(query) => {
                let answer = transaction::query(&self.engine, &self.facts, &Counters, query);
                let version = self.engine.database().contents();
                return Reply {
                    id: request.id,
                    version,
                    result: Ok(answer),
                };
            }
            Body::Transaction(transaction) => transaction,
        };
        let mut lead = Lead {
            services: &mut self.services,
        };
        let (now, id) = (time::now(), request.id);
        let reply = self.engine.execute(&mut lead, client, now, id, transaction);
        match &reply.result {
            Ok(Answer::Applied(_)) => self.attach_channels(),
            Ok(_) => {}
            Err(refusal) => {
                let (object, field) = (&refusal.object, &refusal.field);
                log!(
                    "refused partition {client}: {object}: {field}: {}",
                    refusal.reason
                );
            }
        }
        reply
    }

    /// Serves the channels that the table has now.
    pub fn attach_channels(&mut self) {
        let reader = self.engine.database().reader();
        self.services
            .keep_attached(|index| reader.channel(index).is_ok());
        for (index, entry) in self.engine.database().channels() {
            if let Ok(client) = reader.descriptor(entry.a) {
                self.services.attach(index, &entry, &client);
            }
        }
    }

    /// Writes down what the monitor did by itself.
    fn monitor_events(&mut self) {
        while let Ok(Some(event)) = lead::next_event() {
            let (partition, cause, detail) = (event.partition, event.cause, event.detail);
            log!("partition {partition} stopped: cause {cause}, detail {detail:#x}");
            let mut lead = Lead {
                services: &mut self.services,
            };
            self.engine.monitor_did(&mut lead, &event);
        }
    }
}
