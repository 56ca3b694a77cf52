/* Crew: games of NetHack in one process, each pressing one key, on several threads.
 *
 * NLE's own binding holds Python's lock while the engine thinks. Here the engines' library is
 * called directly, without the lock: helper threads take games from the front, the caller takes
 * games from the back and, before that, whatever is finished, so that it can judge some games
 * while others still play. Every engine is a copy of the library with its own global state, and
 * nothing in it is thread-local: any thread may step any game, one at a time.
 */
#define _GNU_SOURCE /* memmem */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { IDLE, TO_PLAY, PLAYING, PLAYED };
enum { ASKS_YES_NO = 1, ASKS_FOR_LINE = 2, WAITS_FOR_SPACE = 3 }; /* in NLE's `internal` */
enum { SPACE = 32, ESCAPE = 27 };
enum { GAME_OVER = 0 }; /* in NLE's `program_state` */
enum { MESSAGE = 256, SLOTS = 16 };

/* Looks for work before a helper falls asleep: a quarter of a millisecond, the time between two
 * steps of a rollout. Whoever sleeps longer finds its caches cold. */
#define LOOKS 500

/* Most steps of a game take 5 microseconds, few take 50: whoever has waited so many nanoseconds for
 * one will probably wait longer, and has time for something else. */
#define PATIENCE 6000

/* What libnethack.so exports, and the head of the observation that it shares with NLE. */
typedef void *(*step_t)(void *context, void *observation);
typedef struct {
    int action;
    int done;
} observation_t;

typedef struct {
    _Alignas(64) atomic_int state;
    step_t step;
    void *context;
    observation_t *observation;
    /* Questions with one of these words, each ended by a 0, are the agent's; others are declined,
     * and `--More--` is clicked away unread. NULL: nothing is answered here. */
    const char *own;
    Py_ssize_t words; /* the length of that */
    int plain; /* whether the hero lives and all is answered: then the numbers have been copied */
    const int *internal, *program_state; /* NLE's arrays of these names */
    const char *message;
    int slots; /* so many numbers are copied: */
    const long long *from[SLOTS];
    long long *to[SLOTS];
    long long helped; /* nanoseconds of helpers in here, in all */
} game_t;

typedef struct {
    PyObject_HEAD
    int count, started; /* games, and threads */
    int left; /* games of this step that `take` has not returned */
    game_t *games;
    pthread_t *threads;
    pthread_mutex_t lock;
    pthread_cond_t work;
    atomic_uint turn;
    atomic_int quit;
    int asleep; /* helpers, under the lock */
    long long played, waited; /* nanoseconds of the caller, in games and for helpers */
    pid_t owner; /* threads do not survive a fork */
} Crew;

static void press(game_t *game, int key)
{
    game->observation->action = key;
    game->step(game->context, game->observation);
}

/* Whether the question on the screen is the agent's. */
static int is_own(const game_t *game)
{
    for (const char *word = game->own; word < game->own + game->words; word += strlen(word) + 1)
        if (memmem(game->message, MESSAGE, word, strlen(word)))
            return 1;
    return 0;
}

/* Answers as `Game._answer` does; whether that was possible. */
static int answer(game_t *game)
{
    const int *internal = game->internal;
    if (!game->own)
        return !(internal[ASKS_YES_NO] || internal[ASKS_FOR_LINE] || internal[WAITS_FOR_SPACE]
                 || game->program_state[GAME_OVER]);
    while (!game->observation->done) {
        if (internal[WAITS_FOR_SPACE])
            press(game, SPACE);
        else if (internal[ASKS_FOR_LINE])
            press(game, ESCAPE);
        else {
            if (internal[ASKS_YES_NO] && !is_own(game))
                press(game, ESCAPE);
            break;
        }
    }
    return 1;
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Presses the key and what follows; the nanoseconds that it took. */
static long long play(game_t *game)
{
    long long start = now();
    game->step(game->context, game->observation);
    game->plain = answer(game) && !game->observation->done;
    for (int k = 0; k < game->slots && game->plain; k++)
        *game->to[k] = *game->from[k];
    return now() - start;
}

/* Whether the game was in state `from`, and is in state `to` now. */
static int turns(game_t *game, int from, int to)
{
    return atomic_load_explicit(&game->state, memory_order_relaxed) == from
           && atomic_compare_exchange_strong(&game->state, &from, to);
}

static void *help(void *argument)
{
    Crew *crew = argument;
    unsigned seen = 0;
    while (!atomic_load(&crew->quit)) {
        unsigned turn = seen;
        for (int look = 0; look < LOOKS && turn == seen; look++) {
            sched_yield();
            turn = atomic_load(&crew->turn);
        }
        if (turn == seen) {
            pthread_mutex_lock(&crew->lock);
            crew->asleep++;
            while ((turn = atomic_load(&crew->turn)) == seen && !atomic_load(&crew->quit))
                pthread_cond_wait(&crew->work, &crew->lock);
            crew->asleep--;
            pthread_mutex_unlock(&crew->lock);
        }
        seen = turn;
        for (int i = 0; i < crew->count; i++)
            if (turns(&crew->games[i], TO_PLAY, PLAYING)) {
                crew->games[i].helped += play(&crew->games[i]);
                atomic_store(&crew->games[i].state, PLAYED);
            }
    }
    return NULL;
}

static void wake(Crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    atomic_fetch_add(&crew->turn, 1);
    if (crew->asleep)
        pthread_cond_broadcast(&crew->work);
    pthread_mutex_unlock(&crew->lock);
}

static void stop(Crew *crew)
{
    if (!crew->started || crew->owner != getpid())
        return;
    for (int i = 0; i < crew->count; i++)
        turns(&crew->games[i], TO_PLAY, IDLE);
    atomic_store(&crew->quit, 1);
    wake(crew);
    Py_BEGIN_ALLOW_THREADS;
    for (int i = 0; i < crew->started; i++)
        pthread_join(crew->threads[i], NULL);
    Py_END_ALLOW_THREADS;
    for (int i = 0; i < crew->count; i++)
        atomic_store(&crew->games[i].state, IDLE);
    crew->started = 0;
    crew->left = 0;
}

static int Crew_init(PyObject *self, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = { "count", "helpers", NULL };
    Crew *crew = (Crew *) self;
    int count, helpers;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "ii", names, &count, &helpers))
        return -1;
    if (count < 1 || helpers < 0 || crew->games) {
        PyErr_Format(PyExc_ValueError, "count=%d, helpers=%d: expected >= 1 and >= 0, once", count,
                     helpers);
        return -1;
    }
    crew->owner = getpid();
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->work, NULL);
    crew->threads = calloc(helpers + 1, sizeof(pthread_t));
    crew->games = aligned_alloc(64, count * sizeof(game_t));
    if (!crew->threads || !crew->games) {
        PyErr_NoMemory();
        return -1;
    }
    crew->count = count;
    for (int i = 0; i < count; i++)
        crew->games[i] = (game_t){ 0 };
    /* Signals are Python's, whose main thread must get them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; crew->started < helpers; crew->started++)
        if (pthread_create(&crew->threads[crew->started], NULL, help, crew))
            break; /* no room for more threads: the caller plays alone */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return 0;
}

static void Crew_dealloc(PyObject *self)
{
    Crew *crew = (Crew *) self;
    PyTypeObject *type = Py_TYPE(self);
    stop(crew);
    free(crew->games);
    free(crew->threads);
    ((freefunc) PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *Crew_bind(PyObject *self, PyObject *arguments)
{
    Crew *crew = (Crew *) self;
    int i;
    const char *path;
    const char *own;
    Py_ssize_t words, internal, program_state, message;
    PyObject *from, *to;
    if (!PyArg_ParseTuple(arguments, "isz#nnnO!O!", &i, &path, &own, &words, &internal,
                          &program_state, &message, &PyTuple_Type, &from, &PyTuple_Type, &to))
        return NULL;
    Py_ssize_t slots = PyTuple_Size(from);
    if (i < 0 || i >= crew->count || slots > SLOTS || slots != PyTuple_Size(to))
        return PyErr_Format(PyExc_ValueError, "game %d of %d, %zd slots", i, crew->count, slots);
    void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        return PyErr_Format(PyExc_OSError, "%s: its game has not begun", path);
    game_t *game = &crew->games[i];
    void **context = dlsym(library, "current_nle_ctx");
    observation_t *(*observation)(void) = (observation_t * (*) (void) ) dlsym(library,
                                                                             "nle_get_obs");
    game->step = (step_t) dlsym(library, "nle_step");
    dlclose(library); /* NLE keeps it */
    if (!context || !observation || !game->step)
        return PyErr_Format(PyExc_OSError, "%s: another NLE than was expected", path);
    game->context = *context;
    game->observation = observation();
    game->own = own;
    game->words = words;
    game->internal = (const int *) internal;
    game->program_state = (const int *) program_state;
    game->message = (const char *) message;
    game->slots = (int) slots;
    for (int k = 0; k < game->slots; k++) {
        game->from[k] = (const long long *) PyLong_AsSsize_t(PyTuple_GetItem(from, k));
        game->to[k] = (long long *) PyLong_AsSsize_t(PyTuple_GetItem(to, k));
    }
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *Crew_start(PyObject *self, PyObject *keys)
{
    Crew *crew = (Crew *) self;
    if (crew->left)
        return PyErr_Format(PyExc_RuntimeError, "%d games still play", crew->left);
    if (PyList_Size(keys) != crew->count) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "keys: expected %d", crew->count);
        return NULL;
    }
    for (int i = 0; i < crew->count; i++) {
        PyObject *key = PyList_GetItem(keys, i);
        if (key == Py_None)
            continue;
        observation_t *observation = crew->games[i].observation;
        if (!observation || observation->done)
            return PyErr_Format(PyExc_RuntimeError, "game %d has not begun, or is over", i);
        observation->action = (int) PyLong_AsLong(key);
        if (observation->action == -1 && PyErr_Occurred())
            return NULL;
    }
    for (int i = 0; i < crew->count; i++)
        if (PyList_GetItem(keys, i) != Py_None) {
            atomic_store(&crew->games[i].state, TO_PLAY);
            crew->left++;
        }
    wake(crew);
    Py_RETURN_NONE;
}

static PyObject *taken(Crew *crew, int i)
{
    atomic_store(&crew->games[i].state, IDLE);
    crew->left--;
    return PyLong_FromLong(crew->games[i].plain ? i : i + crew->count);
}

static PyObject *Crew_take(PyObject *self, PyObject *meanwhile)
{
    Crew *crew = (Crew *) self;
    while (crew->left) {
        for (int i = crew->count; i--;)
            if (atomic_load(&crew->games[i].state) == PLAYED)
                return taken(crew, i);
        for (int i = crew->count; i--;)
            if (turns(&crew->games[i], TO_PLAY, PLAYING)) {
                Py_BEGIN_ALLOW_THREADS;
                crew->played += play(&crew->games[i]);
                Py_END_ALLOW_THREADS;
                return taken(crew, i);
            }
        long long start = now(), waited = 0;
        int played = 0;
        Py_BEGIN_ALLOW_THREADS;
        while (!played && waited < PATIENCE) {
            sched_yield();
            for (int i = crew->count; i--;)
                played |= atomic_load(&crew->games[i].state) == PLAYED;
            waited = now() - start;
        }
        Py_END_ALLOW_THREADS;
        crew->waited += waited;
        if (!played) {
            PyObject *nothing = PyErr_CheckSignals() ? NULL : PyObject_CallNoArgs(meanwhile);
            if (!nothing)
                return NULL;
            Py_DECREF(nothing);
        }
    }
    return PyLong_FromLong(-1);
}

static PyObject *Crew_spent(PyObject *self, PyObject *unused)
{
    (void) unused;
    Crew *crew = (Crew *) self;
    long long helped = 0;
    for (int i = 0; i < crew->count; i++)
        helped += crew->games[i].helped;
    return Py_BuildValue("ddd", helped / 1e9, crew->played / 1e9, crew->waited / 1e9);
}

static PyObject *Crew_stop(PyObject *self, PyObject *unused)
{
    (void) unused;
    stop((Crew *) self);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    { "bind", Crew_bind, METH_VARARGS,
      "bind(i, path, own, internal, program_state, message, from, to): game i has begun in the "
      "library at path. Words of the questions that are the agent's, each ended by a 0, or None if "
      "nothing is answered; addresses of NLE's arrays, and of numbers to copy. The caller keeps all of "
      "them." },
    { "start", Crew_start, METH_O, "start(keys): press a key in each game; None: in this not." },
    { "take", Crew_take, METH_O,
      "take(meanwhile): a game that has played, plus the count if it is not plain; -1 after the last. "
      "Where that takes long, meanwhile() is called again and again." },
    { "spent", Crew_spent, METH_NOARGS, "spent(): seconds so far of helpers in games, of the caller in games, and of its waiting." },
    { "stop", Crew_stop, METH_NOARGS, "stop(): end the threads." },
    { NULL, NULL, 0, NULL },
};
static PyType_Slot slots[] = {
    { Py_tp_init, Crew_init },
    { Py_tp_new, PyType_GenericNew },
    { Py_tp_dealloc, Crew_dealloc },
    { Py_tp_methods, methods },
    { Py_tp_doc, "Crew(count, helpers): so many games, stepped by so many threads and the caller." },
    { 0, NULL },
};
static PyType_Spec spec = { "_crew.Crew", sizeof(Crew), 0, Py_TPFLAGS_DEFAULT, slots };
static PyModuleDef module = { PyModuleDef_HEAD_INIT, "_crew", NULL, -1, NULL, NULL, NULL, NULL, NULL };

PyMODINIT_FUNC PyInit__crew(void)
{
    PyObject *found = PyModule_Create(&module);
    PyObject *type = found ? PyType_FromSpec(&spec) : NULL;
    if (!type || PyModule_AddObject(found, "Crew", type) < 0)
        return NULL;
    return found;
}
