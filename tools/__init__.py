"""Real tools for the ready-made graphs: an order desk over SQLite and a calculator; they know LangChain core only."""
